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
    pub label: Result<Option<u32>>,
}

/// The thread of a worker. Both end when the queue is closed, after the pictures in hand.
pub struct Hand {
    pub thread: JoinHandle<()>,
    seen: Arc<Seen>,
}

/// What others may ask about.
#[derive(Default)]
struct Seen {
    encoded_bytes: AtomicU64,
    worker_id: AtomicU32,
}

impl Hand {
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
        let mut turn =
            Turn { dataset, worker, in_hand: VecDeque::new(), results, seen: seen.clone() };
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
struct Turn {
    dataset: Arc<Dataset>,
    worker: WorkerProcess,
    /// Tasks that the worker has, oldest first.
    in_hand: VecDeque<InHand>,
    results: Sender<Done>,
    seen: Arc<Seen>,
}

struct InHand {
    task: Task,
    attempts: Attempts,
    place: Place,
    evictions: usize,
}

impl Turn {
    /// Gives the worker tasks until it has enough. False when there is nothing left to do.
    fn take_tasks(&mut self, queue: &Receiver<Task>) -> bool {
        if self.in_hand.len() > FEW_JOBS {
            return true;
        }
        while self.in_hand.len() < JOBS_AHEAD {
            let task =
                if self.in_hand.is_empty() { queue.recv().ok() } else { queue.try_recv().ok() };
            let Some(task) = task else { break };
            if let Err(error) = self.begin(task) {
                let _ = self.results.send(Done { task, label: Err(error) });
                return false;
            }
        }
        self.worker.send();
        !self.in_hand.is_empty()
    }

    fn begin(&mut self, task: Task) -> Result<()> {
        let mut attempts = self.dataset.attempts(task.position);
        let place = self.dataset.next_place(&mut attempts)?;
        self.give(InHand { task, attempts, place, evictions: 0 })
    }

    fn give(&mut self, in_hand: InHand) -> Result<()> {
        let segments =
            self.dataset.locate(&in_hand.place)?.into_iter().map(|segment| FileSegment {
                path: segment.path.as_os_str().as_bytes().to_vec(),
                offset: segment.offset,
                length: segment.length,
            });
        let Task { offset, position, .. } = in_hand.task;
        self.worker.give(Job { slot: offset as u64, position, segments: segments.collect() })?;
        self.in_hand.push_back(in_hand);
        Ok(())
    }

    /// Waits for the end of the worker's oldest job. False after an error, which is handed on.
    fn end_one(&mut self) -> bool {
        let reply = self.worker.next_answer();
        self.seen.worker_id.store(self.worker.id(), Ordering::Relaxed);
        let Some(in_hand) = self.in_hand.pop_front() else { return true };
        let task = in_hand.task;
        let label = match reply.and_then(|reply| self.hear(in_hand, reply)) {
            Ok(None) => return true, // another picture is tried
            Ok(Some(label)) => Ok(label),
            Err(error) => Err(error),
        };
        let good = label.is_ok();
        self.results.send(Done { task, label }).is_ok() && good
    }

    /// The sample's label if it is made.
    fn hear(&mut self, mut in_hand: InHand, reply: Reply) -> Result<Option<Option<u32>>> {
        let InHand { attempts, place, evictions, .. } = &mut in_hand;
        match reply {
            Reply::Done => {
                self.dataset.record_success();
                self.seen.encoded_bytes.fetch_add(place.bytes(), Ordering::Relaxed);
                return Ok(Some(place.label));
            }
            Reply::BadPicture(message) => {
                self.dataset.record_failure(place, &anyhow::Error::msg(message))?;
                *place = self.dataset.next_place(attempts)?;
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
        self.give(in_hand)?;
        Ok(None)
    }
}
