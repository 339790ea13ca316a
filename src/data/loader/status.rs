//! What a loader does at a moment, for a look from another thread: when a run stands still, who
//! waits for what.
//!
//! Everything is a number that its thread stores as it goes on; a look takes no lock and holds
//! nobody up, so the numbers of a look may be a moment apart.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crossbeam::channel::Receiver;

use super::task::Task;

/// Stands for "no position".
const NONE: u64 = u64::MAX;

/// What a loader does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderStatus {
    /// First position of the batch that is given out next; nothing behind the last.
    pub next_position: Option<u64>,
    /// Samples of that batch that are not made yet.
    pub missing: usize,
    /// Batches that are whole.
    pub ready_batches: usize,
    /// Batches under way, whole or not.
    pub pending_batches: usize,
    /// Samples that no worker has taken yet.
    pub queued: usize,
    /// Whether the thread that reads ahead is at work, and does not wait to be told a position.
    pub reads_ahead: bool,
    pub workers: Vec<WorkerStatus>,
}

/// What a worker and its thread do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Process id of the worker as it is now.
    pub process_id: u32,
    pub activity: WorkerActivity,
    /// Samples that the worker has.
    pub jobs: usize,
    /// Position of the sample that the thread is at.
    pub position: Option<u64>,
}

/// What the thread of a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum WorkerActivity {
    /// Waits for samples to be handed out.
    Idle,
    /// Finds out where a sample is, and waits until its bytes are on this machine.
    Locates,
    /// Waits for its process to decode.
    Decodes,
    /// Ended, by an error or because the loader did.
    Ended,
}

/// Looks at a loader, from any thread and for as long as one likes.
#[derive(Debug, Clone)]
pub struct LoaderMonitor {
    pub(super) progress: Arc<Progress>,
    pub(super) queue: Receiver<Task>,
    pub(super) workers: Vec<Arc<WorkerState>>,
}

/// Numbers of the loader itself.
#[derive(Debug, Default)]
pub struct Progress {
    pub next_position: AtomicU64,
    pub missing: AtomicUsize,
    pub ready_batches: AtomicUsize,
    pub pending_batches: AtomicUsize,
    pub reads_ahead: AtomicBool,
}

/// Numbers of a worker's thread.
#[derive(Debug)]
pub struct WorkerState {
    pub encoded_bytes: AtomicU64,
    pub process_id: AtomicU32,
    activity: AtomicU8,
    jobs: AtomicUsize,
    position: AtomicU64,
}

impl WorkerState {
    /// Of the worker `process_id`, which has nothing to do yet.
    pub fn new(process_id: u32) -> Self {
        Self {
            encoded_bytes: AtomicU64::new(0),
            process_id: AtomicU32::new(process_id),
            activity: AtomicU8::new(WorkerActivity::Idle as u8),
            jobs: AtomicUsize::new(0),
            position: AtomicU64::new(NONE),
        }
    }

    /// Says what the thread does from now on.
    pub fn set(&self, activity: WorkerActivity, position: Option<u64>, jobs: usize) {
        self.activity.store(activity as u8, Ordering::Relaxed);
        self.position.store(position.unwrap_or(NONE), Ordering::Relaxed);
        self.jobs.store(jobs, Ordering::Relaxed);
    }

    fn status(&self) -> WorkerStatus {
        use WorkerActivity::{Decodes, Ended, Idle, Locates};
        let activity = self.activity.load(Ordering::Relaxed);
        let known = [Idle, Locates, Decodes].into_iter().find(|&known| known as u8 == activity);
        WorkerStatus {
            process_id: self.process_id.load(Ordering::Relaxed),
            activity: known.unwrap_or(Ended),
            jobs: self.jobs.load(Ordering::Relaxed),
            position: position(&self.position),
        }
    }
}

impl Progress {
    /// Says which position is given out next; none behind the last.
    pub fn set_next(&self, position: Option<u64>, missing: usize) {
        self.next_position.store(position.unwrap_or(NONE), Ordering::Relaxed);
        self.missing.store(missing, Ordering::Relaxed);
    }
}

impl LoaderMonitor {
    /// What the loader does now.
    pub fn status(&self) -> LoaderStatus {
        let progress = &self.progress;
        let count = |number: &AtomicUsize| number.load(Ordering::Relaxed);
        LoaderStatus {
            next_position: position(&progress.next_position),
            missing: count(&progress.missing),
            ready_batches: count(&progress.ready_batches),
            pending_batches: count(&progress.pending_batches),
            queued: self.queue.len(),
            reads_ahead: progress.reads_ahead.load(Ordering::Relaxed),
            workers: self.workers.iter().map(|worker| worker.status()).collect(),
        }
    }
}

fn position(number: &AtomicU64) -> Option<u64> {
    Some(number.load(Ordering::Relaxed)).filter(|&position| position != NONE)
}

impl fmt::Display for LoaderStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ready_batches, pending_batches, queued, missing, .. } = self;
        write!(f, "{ready_batches} of {pending_batches} batches ready, ")?;
        match self.next_position {
            Some(position) => write!(f, "the next from position {position} lacks {missing}, ")?,
            None => write!(f, "no batch is left, ")?,
        }
        let ahead = if self.reads_ahead { "; reading ahead" } else { "" };
        write!(f, "{queued} samples wait for a worker{ahead}")?;
        for (number, worker) in self.workers.iter().enumerate() {
            write!(f, "\nworker-{number}: {worker}")?;
        }
        Ok(())
    }
}

impl fmt::Display for WorkerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let doing = match self.activity {
            WorkerActivity::Idle => "waits for samples",
            WorkerActivity::Locates => "brings a sample's bytes here",
            WorkerActivity::Decodes => "waits for its process to decode",
            WorkerActivity::Ended => "ended",
        };
        write!(f, "process {}, {doing}, {} samples in hand", self.process_id, self.jobs)?;
        self.position.map_or(Ok(()), |position| write!(f, ", at position {position}"))
    }
}
