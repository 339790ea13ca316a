//! One worker process and the thread that keeps it busy.

use std::collections::VecDeque;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use crossbeam::channel::{Receiver, Sender};

use crate::dataset::{Attempts, Dataset, SampleLocation};
use crate::shared_memory::SharedMemory;
use crate::source::Segment;
use crate::worker::{FieldJob, FileSegment, Job, Reply, WorkerProcess};

use super::layout::BatchLayout;
use super::status::{WorkerActivity, WorkerState};
use super::task::{Done, Made, Task};

/// Jobs that a worker has at most, and at how few it gets more: it never waits for us, and several
/// jobs travel in one message.
const JOBS_AHEAD: usize = 8;
const FEW_JOBS: usize = 4;

/// How often a piece of the cache may vanish between being found and being read.
const MOST_EVICTIONS: usize = 100;

/// What follows from a worker's answer.
enum Next {
    /// The worker has another job for the sample.
    Wait,
    End(Option<Made>),
}

/// A handle of a worker and its thread. Both end when the queue is closed and their images are done.
pub struct WorkerHandle {
    pub thread: JoinHandle<()>,
    state: Arc<WorkerState>,
}

impl WorkerHandle {
    /// Starts worker `number`, which takes tasks from the queue until that is closed.
    pub fn start(
        number: usize,
        shared: WorkerContext,
        program: &Path,
        memory: Arc<SharedMemory>,
    ) -> Result<Self> {
        let worker = WorkerProcess::start(program, shared.dataset.plan().clone(), memory)?;
        let state = Arc::new(WorkerState::new(worker.id()));
        let in_flight = VecDeque::new();
        let mut own = WorkerThread { shared, worker, in_flight, state: state.clone() };
        let thread = std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                while own.take_tasks() && own.end_one() {}
                own.state.set(WorkerActivity::Ended, None, own.in_flight.len());
            })
            .context("cannot start a thread for a decoding worker; lower data.workers")?;
        Ok(Self { thread, state })
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Encoded bytes of the samples made so far.
    pub fn encoded_bytes(&self) -> u64 {
        self.state.encoded_bytes.load(Ordering::Relaxed)
    }

    /// Process id of the worker as it is now.
    pub fn worker_id(&self) -> u32 {
        self.state.process_id.load(Ordering::Relaxed)
    }

    /// What thread and worker do, for others to look at.
    pub fn state(&self) -> Arc<WorkerState> {
        self.state.clone()
    }
}

/// What the threads of all workers have.
#[derive(Clone)]
pub struct WorkerContext {
    pub dataset: Arc<Dataset>,
    pub layout: Arc<BatchLayout>,
    pub queue: Receiver<Task>,
    pub results: Sender<Done>,
}

/// The state of the thread.
struct WorkerThread {
    shared: WorkerContext,
    worker: WorkerProcess,
    /// Tasks that the worker has, oldest first.
    in_flight: VecDeque<InFlight>,
    state: Arc<WorkerState>,
}

struct InFlight {
    task: Task,
    attempts: Attempts,
    location: SampleLocation,
    evictions: usize,
}

impl WorkerThread {
    /// Gives the worker tasks until it has enough. False when there is nothing left to do.
    fn take_tasks(&mut self) -> bool {
        if self.in_flight.len() > FEW_JOBS {
            return true;
        }
        while self.in_flight.len() < JOBS_AHEAD {
            let task = if self.in_flight.is_empty() {
                self.state.set(WorkerActivity::Idle, None, 0);
                self.shared.queue.recv().ok()
            } else {
                self.shared.queue.try_recv().ok()
            };
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
        let dataset = &self.shared.dataset;
        self.state.set(WorkerActivity::Locates, Some(task.position), self.in_flight.len());
        let mut attempts = dataset.attempts(task.position);
        let Some(location) = dataset.next_location(&mut attempts)? else { return Ok(false) };
        self.give(InFlight { task, attempts, location, evictions: 0 })?;
        Ok(true)
    }

    /// Sends the outcome of a task. False after an error, or if the receiver is gone.
    fn end(&self, task: Task, outcome: Result<Option<Made>>) -> bool {
        let good = outcome.is_ok();
        self.shared.results.send(Done { task, outcome }).is_ok() && good
    }

    fn give(&mut self, in_flight: InFlight) -> Result<()> {
        let WorkerContext { dataset, layout, .. } = &self.shared;
        let Task { place, slot, position, .. } = in_flight.task;
        let located = dataset.locate(&in_flight.location)?.into_iter().zip(layout.sample(place));
        let fields = located.map(|(segments, range)| FieldJob {
            slot: (slot + range.start) as u64,
            segments: segments.iter().map(file_segment).collect(),
        });
        self.worker.give(Job { position, fields: fields.collect() })?;
        self.in_flight.push_back(in_flight);
        Ok(())
    }

    /// Waits for the end of the worker's oldest job. False after an error, which is sent on.
    fn end_one(&mut self) -> bool {
        let oldest = self.in_flight.front().map(|oldest| oldest.task.position);
        self.state.set(WorkerActivity::Decodes, oldest, self.in_flight.len());
        let reply = self.worker.next_answer();
        self.state.process_id.store(self.worker.id(), Ordering::Relaxed);
        let Some(in_flight) = self.in_flight.pop_front() else { return true };
        let task = in_flight.task;
        match reply.and_then(|reply| self.hear(in_flight, reply)) {
            Ok(Next::Wait) => true,
            Ok(Next::End(made)) => self.end(task, Ok(made)),
            Err(error) => self.end(task, Err(error)),
        }
    }

    fn hear(&mut self, mut in_flight: InFlight, reply: Reply) -> Result<Next> {
        let dataset = &self.shared.dataset;
        let InFlight { attempts, location, evictions, .. } = &mut in_flight;
        match reply {
            Reply::Done(image) => {
                dataset.record_success();
                self.state.encoded_bytes.fetch_add(location.bytes(), Ordering::Relaxed);
                return Ok(Next::End(Some(Made { label: location.label, image })));
            }
            Reply::BadSample(message) => {
                dataset.record_failure(location, &anyhow::Error::msg(message))?;
                match dataset.next_location(attempts)? {
                    Some(another) => *location = another,
                    None => return Ok(Next::End(None)),
                }
            }
            // Another process may have thrown a piece out of the cache.
            Reply::Unreadable { file_is_gone: true, .. }
                if dataset.is_remote(location) && *evictions < MOST_EVICTIONS =>
            {
                *evictions += 1;
            }
            Reply::Unreadable { message, .. } => {
                bail!("{}: {message}", dataset.unreadable(location))
            }
        }
        self.give(in_flight)?;
        Ok(Next::Wait)
    }
}

fn file_segment(segment: &Segment) -> FileSegment {
    FileSegment {
        path: segment.path.as_os_str().as_bytes().to_vec(),
        offset: segment.offset,
        length: segment.length,
    }
}
