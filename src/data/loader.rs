//! Batches from worker threads, in order, ahead of the trainer.
//!
//! The buffer of a batch is split into one piece a sample ([`BytesMut`] owns disjoint parts of
//! one allocation); workers fill the pieces, which are then joined again without copying. All
//! bookkeeping is done by whoever asks for a batch, so there is no thread but the workers, and at
//! most `data.prefetch_batches` batches are under way whatever the trainer does.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::config::DataConfig;

use super::dataset::{Dataset, Scratch};
use super::failures::FailureCounts;

/// Samples of consecutive positions. Dropping it gives its memory back to the loader.
pub struct Batch {
    /// Positions of the samples in the stream.
    pub positions: Range<u64>,
    /// `[B, H, W, 3]`, 8-bit RGB.
    pub images: BytesMut,
    /// Class of each sample, where it has one.
    pub labels: Vec<Option<u32>>,
    /// Pictures tried and failed so far in this process.
    pub failures: FailureCounts,
    home: Sender<BytesMut>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        // A loader that is gone needs no memory back.
        let _ = self.home.send(std::mem::take(&mut self.images));
    }
}

/// Threads that decode and crop batches ahead of the trainer.
pub struct Loader {
    dataset: Arc<Dataset>,
    ranges: Box<dyn Iterator<Item = Range<u64>> + Send>,
    prefetch_batches: usize,
    /// Batches under way, oldest first; the first one's number is `first_pending`.
    pending: VecDeque<PendingBatch>,
    first_pending: u64,
    jobs: Option<Sender<Job>>,
    queue: Receiver<Job>,
    done: Receiver<Done>,
    spare: (Sender<BytesMut>, Receiver<BytesMut>),
    workers: Vec<JoinHandle<()>>,
    failed: bool,
}

struct Job {
    batch: u64,
    slot: usize,
    position: u64,
    pixels: BytesMut,
}

struct Done {
    job: Job,
    label: Result<Option<u32>>,
}

struct PendingBatch {
    positions: Range<u64>,
    pieces: Vec<BytesMut>,
    labels: Vec<Option<u32>>,
    missing: usize,
}

impl Loader {
    /// Starts `data.workers` threads on the batches whose positions `ranges` gives.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        dataset: Arc<Dataset>,
        config: &DataConfig,
        ranges: impl Iterator<Item = Range<u64>> + Send + 'static,
    ) -> Result<Self> {
        let (jobs, queue) = unbounded();
        let (results, done) = unbounded();
        let mut loader = Self {
            dataset,
            ranges: Box::new(ranges),
            prefetch_batches: config.prefetch_batches,
            pending: VecDeque::new(),
            first_pending: 0,
            jobs: Some(jobs),
            queue,
            done,
            spare: unbounded(),
            workers: Vec::new(),
            failed: false,
        };
        for number in 0..worker_count(config) {
            let (dataset, queue, results) =
                (loader.dataset.clone(), loader.queue.clone(), results.clone());
            let worker = std::thread::Builder::new()
                .name(format!("decode-{number}"))
                .spawn(move || work(&dataset, &queue, &results))
                .context("cannot start a decoding thread; lower data.workers")?;
            loader.workers.push(worker);
        }
        loader.top_up();
        Ok(loader)
    }

    /// The next batch, or nothing after the last one. Waits if it is not ready.
    ///
    /// # Errors
    /// [`Dataset::fill`]'s. The loader is of no more use then.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        if self.failed {
            bail!("the data loader stopped at an earlier error");
        }
        while self.pending.front().is_some_and(|batch| batch.missing > 0) {
            if let Err(error) = self.receive_one() {
                self.failed = true;
                return Err(error);
            }
        }
        let Some(front) = self.pending.pop_front() else { return Ok(None) };
        self.first_pending += 1;
        self.top_up();
        Ok(Some(Batch {
            positions: front.positions,
            images: join(front.pieces),
            labels: front.labels,
            failures: self.dataset.failure_counts(),
            home: self.spare.0.clone(),
        }))
    }

    fn receive_one(&mut self) -> Result<()> {
        let Done { job, label } = loop {
            match self.done.recv_timeout(Duration::from_secs(1)) {
                Ok(done) => break done,
                Err(RecvTimeoutError::Timeout)
                    if !self.workers.iter().any(JoinHandle::is_finished) => {}
                Err(_) => bail!("a decoding thread ended unexpectedly"),
            }
        };
        let batch = &mut self.pending[(job.batch - self.first_pending) as usize];
        batch.labels[job.slot] = label?;
        batch.pieces[job.slot] = job.pixels;
        batch.missing -= 1;
        Ok(())
    }

    /// Hands out the samples of further batches until enough are under way.
    fn top_up(&mut self) {
        let Some(jobs) = &self.jobs else { return };
        while self.pending.len() < self.prefetch_batches {
            let Some(positions) = self.ranges.next() else { return };
            let samples = positions.end.saturating_sub(positions.start) as usize;
            let mut buffer = self.spare.1.try_recv().unwrap_or_default();
            buffer.resize(samples * self.dataset.sample_bytes(), 0);
            let batch = self.first_pending + self.pending.len() as u64;
            for (slot, position) in positions.clone().enumerate() {
                let pixels = buffer.split_to(self.dataset.sample_bytes());
                // The receiver lives as long as `self`.
                let _ = jobs.send(Job { batch, slot, position, pixels });
            }
            self.pending.push_back(PendingBatch {
                positions,
                pieces: vec![BytesMut::new(); samples],
                labels: vec![None; samples],
                missing: samples,
            });
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // No more jobs come, and those that wait are taken back; each worker ends its picture.
        self.jobs = None;
        while self.queue.try_recv().is_ok() {}
        for worker in self.workers.drain(..) {
            // What a panic had to say was said by the thread.
            let _ = worker.join();
        }
    }
}

fn worker_count(config: &DataConfig) -> usize {
    match config.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}

fn work(dataset: &Dataset, queue: &Receiver<Job>, results: &Sender<Done>) {
    let mut scratch = Scratch::default();
    for mut job in queue {
        let label = dataset.fill(&mut scratch, job.position, &mut job.pixels);
        if results.send(Done { job, label }).is_err() {
            return;
        }
    }
}

/// Neighbouring pieces of one allocation as a whole again.
fn join(pieces: Vec<BytesMut>) -> BytesMut {
    let mut pieces = pieces.into_iter();
    let mut whole = pieces.next().unwrap_or_default();
    pieces.for_each(|piece| whole.unsplit(piece));
    whole
}
