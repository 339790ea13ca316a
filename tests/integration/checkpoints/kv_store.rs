//! A store that the ranks of a test share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use distill::dist::KvStore;

type Notes = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// One rank's view of notes in the memory of the test.
pub struct SharedStore {
    rank: usize,
    world_size: usize,
    notes: Notes,
}

impl SharedStore {
    /// The views of all ranks.
    pub fn of(world_size: usize) -> Vec<Self> {
        let notes = Notes::default();
        (0..world_size).map(|rank| Self { rank, world_size, notes: notes.clone() }).collect()
    }

    /// The keys of all notes that are up.
    pub fn keys(&self) -> Vec<String> {
        self.notes.lock().unwrap().keys().cloned().collect()
    }
}

impl KvStore for SharedStore {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn set(&self, key: &str, note: &[u8]) -> Result<()> {
        self.notes.lock().unwrap().insert(key.into(), note.into());
        Ok(())
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.notes.lock().unwrap().get(key).cloned())
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.notes.lock().unwrap().remove(key);
        Ok(())
    }
}
