//! The key-value store that the processes of a run share.

use std::collections::HashMap;
use std::sync::Mutex;

use anyhow::Result;

/// A key-value store of small notes that the processes of a run share.
///
/// Nothing here waits for another process: whoever needs a note polls for it.
pub trait KvStore: Send + Sync {
    /// This process, in `0..world_size`.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn world_size(&self) -> usize;

    /// Writes a note, in place of an earlier one of this key.
    fn set(&self, key: &str, note: &[u8]) -> Result<()>;

    /// The note of this key, if there is one.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>>;

    /// Removes the note of this key, if there is one.
    fn remove(&self, key: &str) -> Result<()>;
}

/// The store of a process that trains alone: its own memory.
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
