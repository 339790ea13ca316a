//! Saving while training goes on: a thread that copies the state to host memory, and writes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tch::Device;

use super::copying::{CopyMemory, Copying, Source};
use super::job::{Job, Saved};
use super::pinned::PinnedMemory;
use super::progress::SaveProgress;
use super::shares::owners;
use super::state::{StateTensor, TraineeState};
use crate::artifacts::{Holds, Identity, Stream, stem};
use crate::dist::KvStore;
use crate::native::bytes_of;
use crate::status::{self, Registration};

/// How often a wait for a save checks whether the run has failed.
const RUN_CHECK_POLL: Duration = Duration::from_millis(100);
/// How long the end of a run may be held up by a write that does not come back.
const LONGEST_ENDED_SAVE: Duration = Duration::from_secs(3);

/// The state that is saved.
pub struct Snapshot<'a> {
    pub step: u64,
    pub position: u64,
    pub stream: &'a Stream,
    /// On every rank the same trainees, with the same tensors that are held whole, in one order.
    pub trainees: Vec<TraineeState>,
}

/// Saves a run's checkpoints, this rank its share, in the background.
pub struct Saver {
    run: PathBuf,
    keep: usize,
    /// Step of a checkpoint that stays beside the newest.
    best: Option<u64>,
    identity: Identity,
    store: Arc<dyn KvStore>,
    writers: usize,
    under_way: Option<UnderWay>,
    /// For copies; a save that is under way has it.
    memory: CopyMemory,
    last: Option<Saved>,
    progress: Arc<SaveProgress>,
    _status: Registration,
}

struct UnderWay {
    thread: JoinHandle<(Result<Saved>, CopyMemory)>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
    cancelled: Arc<AtomicBool>,
}

impl Saver {
    /// A saver of checkpoints under `run`, of which the newest `keep` stay. What all ranks hold
    /// alike is written by at most `writers` of them.
    pub fn new(run: &Path, keep: usize, store: Arc<dyn KvStore>, writers: usize) -> Self {
        let progress = Arc::new(SaveProgress::default());
        let described = progress.clone();
        Self {
            run: run.to_path_buf(),
            keep,
            best: None,
            identity: Identity::default(),
            store,
            writers,
            under_way: None,
            memory: CopyMemory::default(),
            last: None,
            progress,
            _status: status::register("checkpoint", move || described.describe()),
        }
    }

    /// From now on checkpoints say that they were trained with this.
    pub fn identify(&mut self, identity: Identity) {
        self.identity = identity;
    }

    /// From now on the checkpoint of `step` stays, beside the newest ones.
    pub fn keep_best(&mut self, step: u64) {
        self.best = Some(step);
    }

    /// Leaves it to a thread to copy this rank's share, whose tensors' devices have done all work on them, and
    /// to write it; an earlier save is waited for. The checkpoint is there when all ranks have saved this step.
    /// `alive` is called now and then while waiting, and its error ends the wait.
    ///
    /// # Errors
    /// The earlier save failed, here or on another rank, or `alive` failed; the checkpoints before
    /// stay as they were.
    pub fn save(&mut self, snapshot: &Snapshot, alive: &dyn Fn() -> Result<()>) -> Result<Copying> {
        let started = Instant::now();
        self.finish(alive)?;
        let sources = self.share(snapshot)?;
        let mut memory = std::mem::take(&mut self.memory);
        let cancelled = Arc::new(AtomicBool::new(false));
        let job = Job {
            run: self.run.clone(),
            keep: self.keep,
            best: self.best,
            identity: self.identity.clone(),
            store: self.store.clone(),
            cancelled: cancelled.clone(),
            step: snapshot.step,
            position: snapshot.position,
            stream: snapshot.stream.clone(),
            previous: self.last.map(|last| last.step),
            progress: self.progress.clone(),
            started,
            copying: Copying::new(started.elapsed()),
        };
        let copying = job.copying.clone();
        let (end, ended) = channel();
        let thread = thread::Builder::new().name("checkpoint".into()).spawn(move || {
            let _end: std::sync::mpsc::Sender<()> = end;
            (job.run(sources, &mut memory), memory)
        });
        let thread = thread.context("cannot start a thread that saves the checkpoint")?;
        self.under_way = Some(UnderWay { thread, ended, cancelled });
        Ok(copying)
    }

    /// Fails if a save has failed since the last call; does not wait.
    ///
    /// # Errors
    /// Which checkpoint was not saved, why, and which one stays the newest.
    pub fn check(&mut self) -> Result<()> {
        match &self.under_way {
            Some(save) if save.ended.try_recv() == Err(TryRecvError::Disconnected) => {
                self.collect()
            }
            _ => Ok(()),
        }
    }

    /// Waits for the save that is under way, if one is; `alive` as of [`Self::save`].
    ///
    /// # Errors
    /// The save failed, or `alive` says that the run did.
    pub fn finish(&mut self, alive: &dyn Fn() -> Result<()>) -> Result<()> {
        let Some(save) = &self.under_way else { return Ok(()) };
        while save.ended.recv_timeout(RUN_CHECK_POLL) == Err(RecvTimeoutError::Timeout) {
            alive()?;
        }
        self.collect()
    }

    /// The last save that has ended well, as far as [`Self::save`], [`Self::check`] or
    /// [`Self::finish`] have seen.
    pub fn last(&self) -> Option<Saved> {
        self.last
    }

    /// Takes the result of the save that has ended.
    fn collect(&mut self) -> Result<()> {
        let Some(save) = self.under_way.take() else { return Ok(()) };
        let (saved, memory) =
            save.thread.join().map_err(|_| anyhow!("the thread that saves checkpoints crashed"))?;
        self.memory = memory;
        self.last = Some(saved?);
        Ok(())
    }

    /// Prepares memory for copies from `device` of what is to be saved from now on, at most `limit` bytes that it
    /// can write to by itself. Where nothing was prepared, or not enough, copies take longer.
    ///
    /// # Errors
    /// The tensors have no names that a file can have.
    pub fn prepare(&mut self, snapshot: &Snapshot, device: Device, limit: u64) -> Result<()> {
        let bytes = |source: &Source| bytes_of(&source.tensor);
        let bytes: Vec<u64> = self.share(snapshot)?.iter().map(bytes).collect();
        self.memory = CopyMemory::pinned(PinnedMemory::prepare(&bytes, limit, device));
        Ok(())
    }

    /// What this rank is to write.
    fn share(&self, snapshot: &Snapshot) -> Result<Vec<Source>> {
        let files = || {
            snapshot.trainees.iter().flat_map(|trainee| {
                [(Holds::Weights, &trainee.weights), (Holds::Optimizer, &trainee.optimizer)]
                    .map(|(holds, tensors)| (stem(&trainee.name, holds), tensors))
            })
        };
        let is_whole = |state: &&StateTensor| state.part.is_none();
        let whole = files().flat_map(|(_, tensors)| tensors).filter(is_whole);
        let bytes: Vec<u64> = whole.map(StateTensor::bytes).collect();
        let mut owners = owners(&bytes, self.writers, self.store.world_size()).into_iter();
        let mut is_mine = |state: &StateTensor| match state.part {
            Some(_) => true,
            None => owners.next() == Some(self.store.rank()),
        };
        let mut sources = Vec::new();
        for (stem, tensors) in files() {
            for state in tensors.iter().filter(|state| is_mine(state)) {
                let (stem, name) = (stem.clone(), state.stored_name()?);
                sources.push(Source { stem, name, tensor: state.tensor.shallow_clone() });
            }
        }
        Ok(sources)
    }
}

impl Drop for Saver {
    /// A save that nobody waited for is given up.
    fn drop(&mut self) {
        let Some(save) = self.under_way.take() else { return };
        save.cancelled.store(true, Ordering::Relaxed);
        if save.ended.recv_timeout(LONGEST_ENDED_SAVE) != Err(RecvTimeoutError::Timeout) {
            let _ = save.thread.join();
        }
    }
}
