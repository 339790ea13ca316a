//! Coordination of a save between ranks: which files each has written, and how the save ended. Each
//! saved step has notes of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::dist::KvStore;

/// How long a rank waits before it looks at the store again: more each time, so that many ranks
/// waiting for a long save do not keep the process busy that has the store.
const STORE_POLL: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(500)];

/// A file that a rank has written, and that has reached the disk.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WrittenFile {
    /// What its final name is to begin with.
    pub stem: String,
    /// Its name until all ranks have written.
    pub name: String,
    pub bytes: u64,
    pub blake3: String,
}

/// How a save ended.
#[derive(Debug, Serialize, Deserialize)]
enum Outcome {
    Published { bytes: u64 },
    Failed { rank: usize, reason: String },
}

/// The notes about the save of one step.
pub(super) struct SaveCoordination<'a> {
    pub store: &'a dyn KvStore,
    pub step: u64,
    /// Whether the save was cancelled.
    pub cancelled: &'a AtomicBool,
}

impl SaveCoordination<'_> {
    /// Publishes what this rank has written.
    pub fn put_written(&self, files: &[WrittenFile]) -> Result<()> {
        self.set(&self.written(self.store.rank()), &files)
    }

    /// Waits for what every rank has written, and removes those notes.
    pub fn take_written(&self) -> Result<Vec<Vec<WrittenFile>>> {
        let ranks = 0..self.store.world_size();
        let all: Result<Vec<_>> =
            ranks.clone().map(|rank| self.wait_for(&self.written(rank))).collect();
        for rank in ranks.filter(|_| all.is_ok()) {
            self.store.remove(&self.written(rank))?;
        }
        all
    }

    /// Publishes that the checkpoint, of this many bytes, has its final name.
    pub fn put_published(&self, bytes: u64) -> Result<()> {
        self.set(&self.outcome(), &Outcome::Published { bytes })
    }

    /// Waits until the checkpoint has its final name; returns its bytes.
    pub fn wait_until_published(&self) -> Result<u64> {
        match self.wait_for(&self.outcome())? {
            Outcome::Published { bytes } => Ok(bytes),
            Outcome::Failed { rank, reason } => Err(failure(rank, &reason)),
        }
    }

    /// Publishes that the save has failed here, and returns the error that all ranks report: the first.
    pub fn fail(&self, error: anyhow::Error) -> anyhow::Error {
        if self.store.world_size() == 1 {
            return error;
        }
        if let Err(earlier) = self.check_failure() {
            return earlier;
        }
        let (rank, reason) = (self.store.rank(), format!("{error:#}"));
        // Should the store be gone, the others have noticed that themselves.
        let _ = self.set(&self.outcome(), &Outcome::Failed { rank, reason: reason.clone() });
        failure(rank, &reason)
    }

    /// Removes the note of how the save ended, once no rank needs it.
    pub fn forget(&self) -> Result<()> {
        self.store.remove(&self.outcome())
    }

    fn check_failure(&self) -> Result<()> {
        match self.get(&self.outcome())? {
            Some(Outcome::Failed { rank, reason }) => Err(failure(rank, &reason)),
            _ => Ok(()),
        }
    }

    fn wait_for<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let [mut pause, longest] = STORE_POLL;
        loop {
            if let Some(note) = self.get(key)? {
                return Ok(note);
            }
            if key != self.outcome() {
                self.check_failure()?;
            }
            if self.cancelled.load(Ordering::Relaxed) {
                bail!("given up while waiting for other ranks, because this one ends");
            }
            std::thread::sleep(pause);
            pause = longest.min(pause * 2);
        }
    }

    fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let note = self.store.get(key)?;
        note.map(|note| serde_json::from_slice(&note))
            .transpose()
            .with_context(|| format!("the note {key} is damaged"))
    }

    fn set(&self, key: &str, note: &impl Serialize) -> Result<()> {
        self.store.set(key, &serde_json::to_vec(note)?)
    }

    fn written(&self, rank: usize) -> String {
        format!("checkpoint/step-{}/written/{rank}", self.step)
    }

    fn outcome(&self) -> String {
        format!("checkpoint/step-{}/outcome", self.step)
    }
}

fn failure(rank: usize, reason: &str) -> anyhow::Error {
    anyhow!("rank {rank}: {reason}")
}
