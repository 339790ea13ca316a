//! One worker process and the thread that keeps it busy.

use std::collections::VecDeque;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use crossbeam::channel::{Receiver, Sender};

use crate::dataset::{Attempts, Dataset, Place};
use crate::image::ImageStats;
use crate::shared_memory::SharedMemory;
use crate::worker::{FileSegment, Job, Reply, Setup, WorkerProcess};

/// Jobs that a worker has at most, and at how few it gets more: it never waits for us, and several
/// jobs travel in one message.
const JOBS_AHEAD: usize = 8;
const FEW_JOBS: usize = 4;

/// How often a piece of the cache may vanish between being found and being read.
const MOST_EVICTIONS: usize = 100;

/// A sample to be made.
#[derive(Debug, Clone, Copy)]
pub struct Task {
    pub batch: u64,
    /// Place in the batch.
    pub place: usize,
    pub position: u64,
    /// First byte of its pixels in the shared memory.
    pub offset: usize,
}

/// A sample that is made, or will never be.
pub struct Done {
    pub task: Task,
    pub outcome: Result<Option<Made>>,
}

/// A sample that is in its place; without one, its image does not decode and is not replaced.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    pub label: Option<u32>,
    pub image: ImageStats,
}

/// What follows from a worker's answer.
enum Next {
    /// The worker has another job for the sample.
    Wait,
    End(Option<Made>),
}

/// The thread of a worker. Both end when the queue is closed, after the images in hand.
pub struct WorkerHandle {
    pub thread: JoinHandle<()>,
    seen: Arc<Seen>,
}

/// What others may ask about.
#[derive(Default)]
struct Seen {
    encoded_bytes: AtomicU64,
    worker_id: AtomicU32,
}

impl WorkerHandle {
    /// Starts worker `number`, which takes tasks from `queue` until that is closed.
    ///
    /// # Errors
    /// Process or thread cannot be started.
    pub fn start(
        number: usize,
        dataset: Arc<Dataset>,
        program: &Path,
        setup: &Setup,
        memory: Arc<SharedMemory>,
        queue: Receiver<Task>,
        results: Sender<Done>,
    ) -> Result<Self> {
        let worker = WorkerProcess::start(program, setup.clone(), memory)?;
        let seen = Arc::new(Seen::default());
        seen.worker_id.store(worker.id(), Ordering::Relaxed);
        let mut turn = WorkerThread {
            dataset,
            worker,
            in_flight: VecDeque::new(),
            results,
            seen: seen.clone(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || while turn.take_tasks(&queue) && turn.end_one() {})
            .context("cannot start a thread for a decoding worker; lower data.workers")?;
        Ok(Self { thread, seen })
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Encoded bytes of the samples made so far.
    pub fn encoded_bytes(&self) -> u64 {
        self.seen.encoded_bytes.load(Ordering::Relaxed)
    }

    /// Process id of the worker as it is now.
    pub fn worker_id(&self) -> u32 {
        self.seen.worker_id.load(Ordering::Relaxed)
    }
}

/// What the thread works with.
struct WorkerThread {
    dataset: Arc<Dataset>,
    worker: WorkerProcess,
    /// Tasks that the worker has, oldest first.
    in_flight: VecDeque<InFlight>,
    results: Sender<Done>,
    seen: Arc<Seen>,
}

struct InFlight {
    task: Task,
    attempts: Attempts,
    place: Place,
    evictions: usize,
}

impl WorkerThread {
    /// Gives the worker tasks until it has enough. False when there is nothing left to do.
    fn take_tasks(&mut self, queue: &Receiver<Task>) -> bool {
        if self.in_flight.len() > FEW_JOBS {
            return true;
        }
        while self.in_flight.len() < JOBS_AHEAD {
            let task =
                if self.in_flight.is_empty() { queue.recv().ok() } else { queue.try_recv().ok() };
            let Some(task) = task else { break };
            let begun = self.begin(task);
            if !matches!(begun, Ok(true)) && !self.end(task, begun.map(|_| None)) {
                return false;
            }
        }
        self.worker.send();
        !self.in_flight.is_empty()
    }

    /// Whether the worker has the task now; if not, there is no image to try for it.
    fn begin(&mut self, task: Task) -> Result<bool> {
        let mut attempts = self.dataset.attempts(task.position);
        let Some(place) = self.dataset.next_place(&mut attempts)? else { return Ok(false) };
        self.give(InFlight { task, attempts, place, evictions: 0 })?;
        Ok(true)
    }

    /// Hands on how a task ended. False after an error, or if nobody listens.
    fn end(&self, task: Task, outcome: Result<Option<Made>>) -> bool {
        let good = outcome.is_ok();
        self.results.send(Done { task, outcome }).is_ok() && good
    }

    fn give(&mut self, in_flight: InFlight) -> Result<()> {
        let segments =
            self.dataset.locate(&in_flight.place)?.into_iter().map(|segment| FileSegment {
                path: segment.path.as_os_str().as_bytes().to_vec(),
                offset: segment.offset,
                length: segment.length,
            });
        let Task { offset, position, .. } = in_flight.task;
        self.worker.give(Job { slot: offset as u64, position, segments: segments.collect() })?;
        self.in_flight.push_back(in_flight);
        Ok(())
    }

    /// Waits for the end of the worker's oldest job. False after an error, which is handed on.
    fn end_one(&mut self) -> bool {
        let reply = self.worker.next_answer();
        self.seen.worker_id.store(self.worker.id(), Ordering::Relaxed);
        let Some(in_flight) = self.in_flight.pop_front() else { return true };
        let task = in_flight.task;
        match reply.and_then(|reply| self.hear(in_flight, reply)) {
            Ok(Next::Wait) => true,
            Ok(Next::End(made)) => self.end(task, Ok(made)),
            Err(error) => self.end(task, Err(error)),
        }
    }

    fn hear(&mut self, mut in_flight: InFlight, reply: Reply) -> Result<Next> {
        let InFlight { attempts, place, evictions, .. } = &mut in_flight;
        match reply {
            Reply::Done(image) => {
                self.dataset.record_success();
                self.seen.encoded_bytes.fetch_add(place.bytes(), Ordering::Relaxed);
                return Ok(Next::End(Some(Made { label: place.label, image })));
            }
            Reply::BadImage(message) => {
                self.dataset.record_failure(place, &anyhow::Error::msg(message))?;
                match self.dataset.next_place(attempts)? {
                    Some(another) => *place = another,
                    None => return Ok(Next::End(None)),
                }
            }
            // Another process may have thrown a piece out of the cache.
            Reply::Unreadable { file_is_gone: true, .. }
                if self.dataset.is_remote(place) && *evictions < MOST_EVICTIONS =>
            {
                *evictions += 1;
            }
            Reply::Unreadable { message, .. } => {
                bail!("{}: {message}", self.dataset.unreadable(place))
            }
        }
        self.give(in_flight)?;
        Ok(Next::Wait)
    }
}
