//! Notes that all processes of a run can read.

use std::collections::HashMap;
use std::sync::Mutex;

use anyhow::Result;

/// Where the processes of a run leave each other small notes, each under a key.
///
/// Nothing here waits for another process; who needs a note looks again.
pub trait KvStore: Send + Sync {
    /// This process, in `0..world_size`.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn world_size(&self) -> usize;

    /// Puts up a note, in place of an earlier one of this key.
    ///
    /// # Errors
    /// The process that keeps the notes cannot be reached.
    fn set(&self, key: &str, note: &[u8]) -> Result<()>;

    /// The note of this key, if there is one by now.
    ///
    /// # Errors
    /// The process that keeps the notes cannot be reached.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>>;

    /// Takes the note of this key down, if there is one.
    ///
    /// # Errors
    /// The process that keeps the notes cannot be reached.
    fn remove(&self, key: &str) -> Result<()>;
}

/// The board of a process that has no others: its own memory.
#[derive(Debug, Default)]
pub struct LocalStore {
    notes: Mutex<HashMap<String, Vec<u8>>>,
}

impl LocalStore {
    fn notes(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<u8>>> {
        self.notes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl KvStore for LocalStore {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn set(&self, key: &str, note: &[u8]) -> Result<()> {
        self.notes().insert(key.to_string(), note.to_vec());
        Ok(())
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.notes().get(key).cloned())
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.notes().remove(key);
        Ok(())
    }
}
