//! Batches from worker processes, in order, ahead of the trainer.
//!
//! The memory of all batches is one piece of shared memory, cut into as many slots as batches may
//! be under way, a plane for each field of the samples ([`layout`]). The samples of a batch are tasks in a queue; a thread for each worker
//! process takes them from there, hands them on and hears how they end ([`worker_thread`]). All bookkeeping
//! is done by whoever asks for a batch. One more thread has files read ahead ([`read_ahead`]).

mod layout;
mod read_ahead;
mod status;
mod task;
mod worker_thread;

use std::collections::VecDeque;
use std::iter::Peekable;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, bail, ensure};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::config::DataConfig;
use crate::dataset::{Dataset, FailureCounts};
use crate::image::ImageStats;
use crate::shared_memory::{Slot, Slots};

use layout::BatchLayout;
use read_ahead::ReadAhead;
use status::Progress;
pub use status::{LoaderMonitor, LoaderStatus, WorkerActivity, WorkerStatus};
use task::{Done, Made, Task};
use worker_thread::{WorkerContext, WorkerHandle};

/// How long threads may take to end when the loader is dropped.
const LONGEST_FAREWELL: Duration = Duration::from_secs(5);

/// How often it is asked, while a batch is waited for, whether a worker's thread has ended.
const THREAD_CHECK_POLL: Duration = Duration::from_secs(1);

/// Samples of consecutive positions. Dropping it gives its memory back to the loader.
pub struct Batch {
    /// Positions of the samples in the stream.
    pub positions: Range<u64>,
    /// Class of each sample, where it has one.
    pub labels: Vec<Option<u32>>,
    /// What was found out about each sample's image. Nothing, in an evaluation pass, of one that
    /// does not decode: it has no label and is black.
    pub images: Vec<Option<ImageStats>>,
    /// Images tried and failed so far in this process.
    pub failures: FailureCounts,
    dataset: Arc<Dataset>,
    layout: Arc<BatchLayout>,
    slot: Slot,
}

impl Batch {
    /// `[B, H, W, 3]`, 8-bit RGB.
    pub fn images(&self) -> &[u8] {
        self.plane(0)
    }

    /// The dense target `name`, if the data set has one of that name: `[B, H, W]`, a byte for each
    /// class, two in the machine's order for each depth. 0 where a sample is black.
    pub fn target(&self, name: &str) -> Option<&[u8]> {
        let targets = &self.dataset.plan().targets;
        let number = targets.iter().position(|target| target.name == name)?;
        Some(self.plane(number + 1))
    }

    fn plane(&self, field: usize) -> &[u8] {
        self.slot.read(self.layout.plane(field, self.labels.len()))
    }
}

/// What the workers of a loader did so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderStatistics {
    /// Encoded bytes of the images that went into samples.
    pub encoded_bytes: u64,
    /// Process ids of the workers as they are now.
    pub workers: Vec<u32>,
}

/// Worker processes that decode and crop batches ahead of the trainer.
pub struct Loader {
    dataset: Arc<Dataset>,
    ranges: Peekable<Box<dyn Iterator<Item = Range<u64>> + Send>>,
    prefetch_batches: usize,
    layout: Arc<BatchLayout>,
    progress: Arc<Progress>,
    slots: Slots,
    /// Batches under way, oldest first; the first one's number is `first_pending`.
    pending: VecDeque<PendingBatch>,
    first_pending: u64,
    tasks: Option<Sender<Task>>,
    queue: Receiver<Task>,
    done: Receiver<Done>,
    workers: Vec<WorkerHandle>,
    read_ahead: Option<ReadAhead>,
    /// An error from between two calls of [`Loader::next_batch`].
    error: Option<Error>,
    failed: bool,
}

struct PendingBatch {
    positions: Range<u64>,
    samples: Vec<Option<Made>>,
    missing: usize,
    slot: Slot,
}

impl Loader {
    /// Starts `data.workers` processes of `worker_program` on the batches whose positions
    /// `ranges` gives, none longer than `data.batch_size`.
    ///
    /// # Errors
    /// A process or thread cannot be started, there is no memory for the batches, or more than
    /// [`MOST_WORKERS`] are asked for.
    pub fn start(
        dataset: Arc<Dataset>,
        config: &DataConfig,
        worker_program: &Path,
        ranges: impl Iterator<Item = Range<u64>> + Send + 'static,
    ) -> Result<Self> {
        let count = worker_count(config);
        ensure!(count <= MOST_WORKERS, "found {count} workers, expected at most {MOST_WORKERS}");
        let (tasks, queue) = unbounded();
        let (results, done) = unbounded();
        // The trainer holds one more than are under way.
        let layout = Arc::new(BatchLayout::new(dataset.plan().field_bytes(), config.batch_size));
        let slots = Slots::new(config.prefetch_batches + 1, layout.bytes())?;
        let context = WorkerContext {
            dataset: dataset.clone(),
            layout: layout.clone(),
            queue: queue.clone(),
            results,
        };
        let workers = (0..count)
            .map(|number| {
                WorkerHandle::start(number, context.clone(), worker_program, slots.memory())
            })
            .collect::<Result<_>>()?;
        let progress = Arc::new(Progress::default());
        let mut loader = Self {
            read_ahead: Some(ReadAhead::start(dataset.clone(), progress.clone())?),
            dataset,
            ranges: (Box::new(ranges) as Box<dyn Iterator<Item = _> + Send>).peekable(),
            prefetch_batches: config.prefetch_batches,
            layout,
            progress,
            slots,
            pending: VecDeque::new(),
            first_pending: 0,
            tasks: Some(tasks),
            queue,
            done,
            workers,
            error: None,
            failed: false,
        };
        loader.top_up()?;
        loader.show_progress();
        Ok(loader)
    }

    /// The next batch, or nothing after the last one. Waits if it is not ready.
    ///
    /// # Errors
    /// A shard cannot be read any more, more images fail than `data.max_failed_share`, workers
    /// die again and again, or all memory is in batches that the caller still holds. The loader is
    /// of no more use then.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        ensure!(!self.failed, "the data loader stopped at an earlier error");
        let batch = self.error.take().map_or_else(|| self.wait_for_batch(), Err);
        self.failed = batch.is_err();
        batch
    }

    /// Whether [`Self::next_batch`] would return at once.
    pub fn is_ready(&mut self) -> bool {
        while let Ok(done) = self.done.try_recv() {
            self.accept_or_keep_error(done);
        }
        self.failed
            || self.error.is_some()
            || self.pending.front().is_none_or(|batch| batch.missing == 0)
    }

    /// Waits until [`Self::next_batch`] would return at once, but no longer than `patience`. False if
    /// it still would not.
    pub fn is_ready_within(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while !self.is_ready() {
            match self.done.recv_deadline(deadline) {
                Ok(done) => self.accept_or_keep_error(done),
                // A thread that ended is an error, which `next_batch` reports.
                Err(_) => return self.workers.iter().any(WorkerHandle::is_finished),
            }
        }
        true
    }

    /// What the workers did so far.
    pub fn statistics(&self) -> LoaderStatistics {
        LoaderStatistics {
            encoded_bytes: self.workers.iter().map(WorkerHandle::encoded_bytes).sum(),
            workers: self.workers.iter().map(WorkerHandle::worker_id).collect(),
        }
    }

    /// To look at what the loader does, also from another thread and while it works.
    pub fn monitor(&self) -> LoaderMonitor {
        let workers = self.workers.iter().map(WorkerHandle::state).collect();
        LoaderMonitor { progress: self.progress.clone(), queue: self.queue.clone(), workers }
    }

    /// What the loader does now.
    pub fn status(&self) -> LoaderStatus {
        self.monitor().status()
    }

    fn wait_for_batch(&mut self) -> Result<Option<Batch>> {
        self.top_up()?;
        while self.pending.front().is_some_and(|batch| batch.missing > 0) {
            let done = self.receive_one()?;
            self.accept(done)?;
        }
        let Some(front) = self.pending.pop_front() else {
            let ended = self.ranges.peek().is_none();
            ensure!(ended, "all memory for batches is in batches that are still held");
            return Ok(None);
        };
        self.first_pending += 1;
        self.top_up()?;
        self.show_progress();
        Ok(Some(Batch {
            positions: front.positions,
            labels: front.samples.iter().map(|made| made.and_then(|made| made.label)).collect(),
            images: front.samples.iter().map(|made| made.map(|made| made.image)).collect(),
            failures: self.dataset.failure_counts(),
            dataset: self.dataset.clone(),
            layout: self.layout.clone(),
            slot: front.slot,
        }))
    }

    fn receive_one(&mut self) -> Result<Done> {
        loop {
            match self.done.recv_timeout(THREAD_CHECK_POLL) {
                Ok(done) => return Ok(done),
                Err(RecvTimeoutError::Timeout)
                    if !self.workers.iter().any(WorkerHandle::is_finished) => {}
                // What it said before it ended may have come in just now.
                Err(_) => match self.done.try_recv() {
                    Ok(done) => return Ok(done),
                    Err(_) => bail!("a thread of the data loader ended unexpectedly"),
                },
            }
        }
    }

    fn accept(&mut self, Done { task, outcome }: Done) -> Result<()> {
        let batch = &mut self.pending[(task.batch - self.first_pending) as usize];
        let made = outcome?;
        if made.is_none() {
            self.layout.sample(task.place).for_each(|range| batch.slot.clear(range));
        }
        batch.samples[task.place] = made;
        batch.missing -= 1;
        self.show_progress();
        Ok(())
    }

    fn accept_or_keep_error(&mut self, done: Done) {
        if let Err(error) = self.accept(done) {
            self.error.get_or_insert(error);
        }
    }

    /// Stores what the monitor shows.
    fn show_progress(&self) {
        let Self { progress, pending, .. } = self;
        let next = pending.front();
        progress.set_next(next.map(|batch| batch.positions.start), next.map_or(0, |b| b.missing));
        let ready = pending.iter().filter(|batch| batch.missing == 0).count();
        progress.ready_batches.store(ready, Ordering::Relaxed);
        progress.pending_batches.store(pending.len(), Ordering::Relaxed);
    }

    /// Queues the samples of further batches until enough are under way.
    fn top_up(&mut self) -> Result<()> {
        let Some(tasks) = &self.tasks else { return Ok(()) };
        while self.pending.len() < self.prefetch_batches {
            if self.ranges.peek().is_none() {
                return Ok(());
            }
            let Some(slot) = self.slots.take() else { return Ok(()) };
            let Some(positions) = self.ranges.next() else { return Ok(()) };
            let samples = positions.end.saturating_sub(positions.start) as usize;
            ensure!(samples <= self.layout.samples(), "{samples} samples are more than a batch");
            if let Some(ahead) = &self.read_ahead {
                ahead.reach(positions.start);
            }
            let batch = self.first_pending + self.pending.len() as u64;
            for (place, position) in positions.clone().enumerate() {
                // The receiver lives as long as `self`.
                let _ = tasks.send(Task { batch, place, position, slot: slot.start() });
            }
            self.pending.push_back(PendingBatch {
                positions,
                samples: vec![None; samples],
                missing: samples,
                slot,
            });
        }
        Ok(())
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // No more tasks come, and those that wait are taken back; each worker ends its images.
        self.tasks = None;
        while self.queue.try_recv().is_ok() {}
        let workers = self.workers.drain(..).map(|worker| worker.thread);
        // Taking the thread out drops the sender that it listens to.
        let ahead = self.read_ahead.take().map(|ahead| ahead.thread);
        end_threads(workers.chain(ahead).collect());
    }
}

/// Waits for threads that were asked to end. Those that hang, on a slow network or a worker that
/// somebody stopped, are left alone after a while: they and their workers end with this process.
fn end_threads(threads: Vec<JoinHandle<()>>) {
    let start = Instant::now();
    for thread in threads {
        while !thread.is_finished() && start.elapsed() < LONGEST_FAREWELL {
            std::thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            // What a panic had to say was said by the thread.
            let _ = thread.join();
        }
    }
}

/// Most decoding workers of a loader. Each is a process: no node has cores for more, and to start them takes minutes.
pub const MOST_WORKERS: usize = 4096;

/// How many decoding workers a loader of this process has.
pub fn worker_count(config: &DataConfig) -> usize {
    match config.workers {
        0 => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            (cores / PROCESSES.load(Ordering::Relaxed)).max(1)
        }
        workers => workers,
    }
}

/// Processes of this machine that have loaders.
static PROCESSES: AtomicUsize = AtomicUsize::new(1);

/// From here on loaders that may take all cores leave theirs to as many `processes` of this machine, this one
/// among them.
pub fn share_cores(processes: usize) {
    PROCESSES.store(processes.max(1), Ordering::Relaxed);
}
