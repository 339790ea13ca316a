//! The process group: all processes of a run, as one of them sees them.

use std::borrow::Cow;
use std::mem::ManuallyDrop;
use std::net::TcpListener;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};
use tch::{Device, Tensor};
use tracing::{debug, warn};

use super::activity::{Activity, ActivityGuard, TrainingThread};
use super::connecting::{connect, lead_nccl, route_to_master};
use super::environment::RankInfo;
use super::error::StoppedEarly;
use super::heartbeat::Heartbeat;
use super::kv_store::{KvStore, LocalStore};
use super::pace::{Pace, RankPace};
use super::rendezvous::meet;
use super::tcp_store::{Pause, TcpKvStore};
use crate::native::c10d::{Collectives, Work, are_queued};
use crate::native::{DeviceEvent, guard, skip_destructors};
use crate::status::{self, Registration};

/// How long a wait for a collective goes on before the verdict of the heartbeat is looked at.
const COLLECTIVE_POLL: Duration = Duration::from_millis(100);

/// How long others that gave up a step are waited for before collectives are aborted, and how long the
/// abortion: one of them may be stuck in a call that only the end of another's collectives frees.
const LONGEST_SETTLING: Duration = Duration::from_secs(3);
const SETTLING_POLL: Duration = Duration::from_millis(20);
const LONGEST_ABORT: Duration = Duration::from_secs(5);

/// Files that a process of many has open while it joins the others.
const OWN_FILES: u64 = 20;

/// Pause between looks at whether the device has come to an event.
const DEVICE_POLL: Duration = Duration::from_micros(50);

/// The processes that train together. In a process that trains alone everything here returns at
/// once.
pub struct ProcessGroup {
    rank_info: RankInfo,
    device: Device,
    /// Whether this process was asked to stop.
    stop: fn() -> bool,
    thread: Arc<TrainingThread>,
    others: Option<Others>,
    /// What keys of notes begin with: see [`Self::begin_part`].
    part: Mutex<String>,
    _status: Registration,
}

struct Others {
    /// Taken out in [`ProcessGroup::leave`] only: after a failure its destructor could wait for the dead.
    collectives: ManuallyDrop<Arc<Collectives>>,
    /// See [`are_queued`].
    are_queued: bool,
    heartbeat: Heartbeat,
    store: Arc<TcpKvStore>,
    thread: Arc<TrainingThread>,
}

impl ProcessGroup {
    /// A process without others. `stop` says whether it was asked to stop.
    pub fn alone(device: Device, stop: fn() -> bool) -> Self {
        let thread = Arc::new(TrainingThread::new());
        Self::new(RankInfo::alone(), device, stop, thread, None)
    }

    fn new(
        rank_info: RankInfo,
        device: Device,
        stop: fn() -> bool,
        thread: Arc<TrainingThread>,
        others: Option<Others>,
    ) -> Self {
        let described = thread.clone();
        let status = status::register("training thread", move || described.describe());
        Self { rank_info, device, stop, thread, others, part: Mutex::default(), _status: status }
    }

    /// Joins the other processes of the run `name`, all of which must join within `meeting`.
    /// A process that is then silent for `timeout` counts as dead.
    ///
    /// # Errors
    /// Not all join; the message says which ranks are missing.
    pub fn join(
        mut rank_info: RankInfo,
        device: Device,
        name: &str,
        meeting: Duration,
        timeout: Duration,
        stop: fn() -> bool,
    ) -> Result<Self> {
        raise_file_limit(&rank_info)?;
        if rank_info.world_size == 1 && !rank_info.rendezvous.hosted_by_launcher {
            // Nobody else comes: the port that was given may be that of another run.
            rank_info.rendezvous.host = "127.0.0.1".into();
            rank_info.rendezvous.port = free_port()?;
        }
        let are_queued = are_queued(device)?;
        if are_queued {
            lead_nccl(&rank_info)?;
        }
        let store = meet(&rank_info, name, meeting, stop)?;
        let heartbeat_store = Arc::new(TcpKvStore::open(&rank_info, false, meeting)?);
        let keeper = format!("{}:{}", rank_info.rendezvous.host, rank_info.rendezvous.port);
        let thread = Arc::new(TrainingThread::new());
        let address = route_to_master(&rank_info).ok();
        let heartbeat =
            Heartbeat::start(thread.clone(), heartbeat_store, timeout, keeper, address, stop)?;
        let patience = if are_queued { meeting } else { meeting + timeout * 2 };
        let collectives = match connect(&rank_info, device, &store, patience, &heartbeat) {
            Ok(collectives) => ManuallyDrop::new(collectives),
            Err(error) if error.is::<StoppedEarly>() => return Err(error),
            Err(error) => {
                heartbeat.announce(&error);
                return Err(error);
            }
        };
        if are_queued {
            heartbeat.frees_with(Arc::downgrade(&collectives));
        }
        let others = Others { collectives, are_queued, heartbeat, store, thread: thread.clone() };
        Ok(Self::new(rank_info, device, stop, thread, Some(others)))
    }

    pub fn rank(&self) -> usize {
        self.rank_info.rank
    }

    pub fn world_size(&self) -> usize {
        self.rank_info.world_size
    }

    /// Whether no launcher started this process. A group of one that a launcher started does all
    /// that larger ones do.
    pub fn is_alone(&self) -> bool {
        self.others.is_none()
    }

    /// Who this process is.
    pub fn rank_info(&self) -> &RankInfo {
        &self.rank_info
    }

    /// Whether this is rank 0, which writes what is written once.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// The key-value store of the run.
    pub fn store(&self) -> Arc<dyn KvStore> {
        match &self.others {
            None => Arc::new(LocalStore::default()),
            Some(others) => others.store.clone(),
        }
    }

    /// Where this process trains.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Begins a part of the work: notes from now on are apart from those of other parts, whatever their
    /// keys. All processes name the same parts.
    pub fn begin_part(&self, name: &str) {
        *self.part.lock().unwrap_or_else(PoisonError::into_inner) = format!("{name}/");
    }

    /// `key` within the part that was begun.
    fn key_of(&self, key: &str) -> String {
        format!("{}{key}", self.part.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Publishes `note` under `key`, for all processes to [`Self::wait_for`].
    pub fn publish(&self, key: &str, note: &[u8]) -> Result<()> {
        match &self.others {
            None => Ok(()),
            Some(others) => others
                .store
                .set(&self.key_of(key), note)
                .map_err(|error| others.heartbeat.blame(error)),
        }
    }

    /// Waits for the note `key` of some other process.
    ///
    /// # Panics
    /// In a process that trains alone: there is no other to write it.
    pub fn wait_for(&self, key: &str) -> Result<Vec<u8>> {
        let others = self.others.as_ref().expect("there are others");
        let (mut note, mut pause) = (None, Pause::default());
        let key = &self.key_of(key);
        others.until(format!("the note `{key}`").into(), || {
            note = others.store.get(key)?;
            if note.is_none() {
                pause.take();
            }
            Ok(note.is_some())
        })?;
        Ok(note.unwrap_or_default())
    }

    /// Replaces `tensor` by the sum over all processes.
    pub fn sum(&self, tensor: &Tensor) -> Result<()> {
        self.collective("a sum", |collectives| collectives.sum(tensor))
    }

    /// Replaces each number of `tensor` by the largest of all processes.
    pub fn max(&self, tensor: &Tensor) -> Result<()> {
        self.collective("a maximum", |collectives| collectives.max(tensor))
    }

    /// The 1-D `part`s of all processes one after the other, on the host.
    pub fn gather(&self, part: &Tensor) -> Result<Tensor> {
        let whole = guard(|| {
            let length = part.size1()? * self.world_size() as i64;
            Ok(Tensor::zeros([length], (part.kind(), part.device())))
        })?;
        if self.others.is_none() {
            return guard(|| Ok(part.to_device(Device::Cpu)));
        }
        self.collective("a gathering", |collectives| collectives.all_gather(&whole, part))?;
        self.synchronize()?;
        guard(|| Ok(whole.to_device(Device::Cpu)))
    }

    fn collective(
        &self,
        name: &'static str,
        begin: impl FnOnce(&Collectives) -> Result<Work>,
    ) -> Result<()> {
        let Some(others) = &self.others else { return Ok(()) };
        let work = begin(&others.collectives).map_err(|error| others.heartbeat.blame(error))?;
        others.until(name.into(), || work.is_done_within(COLLECTIVE_POLL))
    }

    /// Waits for the collective `name` until `is_done_within` so short a time.
    pub(super) fn wait_for_collective(
        &self,
        name: &'static str,
        is_done_within: impl Fn(Duration) -> Result<bool>,
    ) -> Result<()> {
        self.until(name, || is_done_within(COLLECTIVE_POLL))
    }

    /// Calls `done` until it returns true; each call waits for a short turn at most. `what` says in a dump
    /// what is waited for.
    ///
    /// # Errors
    /// That of `done`, a failed process, or [`Abandoned`](super::Abandoned).
    pub fn until(&self, what: &'static str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        match &self.others {
            Some(others) => others.until(what.into(), done),
            None => {
                while !done()? {}
                Ok(())
            }
        }
    }

    /// Waits until the device has done all queued work, and looks at the heartbeats meanwhile: queued
    /// collectives may wait for a dead process.
    pub fn synchronize(&self) -> Result<()> {
        self.wait_event(&DeviceEvent::record(self.device)?)
    }

    /// Waits until the device has reached `event`.
    pub fn wait_event(&self, event: &DeviceEvent) -> Result<()> {
        self.until("the device, which may wait for a collective", || {
            let passed = event.is_complete()?;
            if !passed {
                std::thread::sleep(DEVICE_POLL);
            }
            Ok(passed)
        })
    }

    /// After the step after `step` was given up: ends the collectives of that step, for which a GPU would
    /// wait for ever. No other collective can follow.
    ///
    /// # Errors
    /// A process failed.
    pub fn end_collectives(&self, step: u64) -> Result<()> {
        let Some(others) = &self.others else { return Ok(()) };
        skip_destructors();
        if others.are_queued {
            others.await_settled(step, self.world_size())?;
            abort_within(LONGEST_ABORT, Arc::clone(&others.collectives));
        }
        Ok(())
    }

    /// The collectives; `None` in a process that trains alone.
    pub(super) fn collectives(&self) -> Option<&Collectives> {
        self.others.as_ref().map(|others| &**others.collectives)
    }

    /// The failure behind a collective that failed with `error`.
    pub(super) fn blame(&self, error: anyhow::Error) -> anyhow::Error {
        match &self.others {
            Some(others) => others.heartbeat.blame(error),
            None => error,
        }
    }

    /// Says that `step` (from 1) is worked on, which is progress.
    pub fn begin_step(&self, step: u64) {
        self.thread.begin_step(step);
    }

    /// This process does `activity` until the guard is dropped, and then what it did before.
    /// Meanwhile [`status::beat`] on this thread is its progress.
    pub fn enter(&self, activity: Activity) -> ActivityGuard<'_> {
        self.thread.enter(activity, None)
    }

    /// Whether any process was asked to stop.
    pub fn is_asked_to_stop(&self) -> bool {
        match &self.others {
            None => (self.stop)(),
            Some(others) => others.heartbeat.is_asked_to_stop(),
        }
    }

    /// Announces that this process gives `step` up. All others that have begun it find that out where
    /// they wait, and none can have finished it.
    pub fn abandon(&self, step: u64) -> Result<()> {
        match &self.others {
            None => Ok(()),
            Some(others) => {
                others.heartbeat.abandon(step).map_err(|error| others.heartbeat.blame(error))
            }
        }
    }

    /// Adds what this process spent steps on, for its sign of life.
    pub fn took(&self, pace: Pace) {
        self.thread.took(pace);
    }

    /// What the processes have spent their steps on, as the first process last read of all of them; nothing in
    /// a process that trains alone.
    pub fn paces(&self) -> Vec<RankPace> {
        self.others.as_ref().map_or_else(Vec::new, |others| others.heartbeat.paces())
    }

    /// Waits until it is known why another process went no further.
    ///
    /// # Errors
    /// It was not asked to stop, but failed: its failure.
    pub fn await_reason(&self) -> Result<()> {
        self.until("why another process went no further", || {
            thread::sleep(SETTLING_POLL);
            Ok(self.is_asked_to_stop())
        })
    }

    /// Fails if a process failed, or gave up the step that this one works on.
    pub fn check(&self) -> Result<()> {
        self.others.as_ref().map_or(Ok(()), |others| others.heartbeat.check_step())
    }

    /// Fails if a process failed.
    pub fn check_failure(&self) -> Result<()> {
        self.others.as_ref().map_or(Ok(()), |others| others.heartbeat.check())
    }

    /// Tells the others that this process ends with `error`.
    pub fn announce(&self, error: &anyhow::Error) {
        if let Some(others) = &self.others {
            skip_destructors();
            others.heartbeat.announce(error);
        }
    }

    /// Leaves the group at the end of a successful run.
    pub fn leave(mut self) -> Result<()> {
        let Some(others) = self.others.take() else { return Ok(()) };
        // Rank 0 keeps the store (`_store`) until the others have left.
        let Others { collectives, heartbeat, store: _store, .. } = others;
        heartbeat.leave()?;
        if !heartbeat.is_any_abandoned() {
            drop(ManuallyDrop::into_inner(collectives));
        }
        drop(heartbeat);
        Ok(())
    }
}

impl Others {
    fn until(&self, what: Cow<'static, str>, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let _waiting = self.thread.enter(Activity::WaitingForOthers, Some(what));
        let mut asked = Instant::now();
        loop {
            match done() {
                Ok(true) => return Ok(()),
                Ok(false) => self.heartbeat.check_step()?,
                Err(error) => return Err(self.heartbeat.blame(error)),
            }
            // On a GPU what is waited for does not fail: NCCL tells only who asks.
            if asked.elapsed() >= COLLECTIVE_POLL {
                asked = Instant::now();
                self.collectives.check().map_err(|error| {
                    warn!("{error:#}");
                    self.heartbeat.blame(error)
                })?;
            }
        }
    }

    /// Waits a while until all processes have the weights after `step`: one that aborts its collectives
    /// before takes them from those that still receive.
    fn await_settled(&self, step: u64, size: usize) -> Result<()> {
        let key = format!("settled/{step}");
        let mut count = self.store.count(&key)?;
        let begun = Instant::now();
        while count < size as i64 && begun.elapsed() < LONGEST_SETTLING {
            self.heartbeat.check()?;
            thread::sleep(SETTLING_POLL);
            count = self.store.counted(&key)?;
        }
        debug!("{count} of {size} processes have the weights after step {step}");
        Ok(())
    }
}

/// Aborts collectives. libtorch may wait for more than we do: then that thread is left behind, and what
/// is saved does not need it.
fn abort_within(patience: Duration, collectives: Arc<Collectives>) {
    let (sender, receiver) = sync_channel(1);
    let begun = Instant::now();
    let thread = thread::Builder::new().name("abort".into());
    let spawned = thread.spawn(move || sender.send(collectives.abort().map_err(|e| e.to_string())));
    let outcome = spawned.map(|_| receiver.recv_timeout(patience));
    debug!("collectives aborted after {:.1} s: {outcome:?}", begun.elapsed().as_secs_f64());
}

/// A port of this node that nobody listens at.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port is free")?;
    Ok(listener.local_addr()?.port())
}

/// Rank 0 keeps two connections to every other process, more than most systems allow unless asked.
///
/// # Errors
/// The system allows too few: the store would take no more connections, and all would wait for one another.
fn raise_file_limit(rank_info: &RankInfo) -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    let own = if rank_info.rank == 0 { 2 * rank_info.world_size as u64 } else { 0 };
    let needed = own + OWN_FILES;
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    ensure!(
        allowed >= needed,
        "rank {} of {} needs {needed} open files or more: raise ulimit -n (now {allowed})",
        rank_info.rank,
        rank_info.world_size
    );
    Ok(())
}
