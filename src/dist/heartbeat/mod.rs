//! Signs of life: how every process learns that one is dead, hung or cut off, and which.
//!
//! A thread of each process puts up a note every second or more often: how often it did so, at which
//! step the process is, and what it does. Rank 0 reads all of them, the others read that of rank 0.
//! Who finds one that stays the same for too long puts up a [`Failure`], which ends all. The store
//! itself may stop answering, so a second thread, which asks nobody, watches the first.
//!
//! The training thread looks at the outcome wherever it waits. Should it not (it may hang inside a
//! library), the second thread ends the process.

mod monitor;
mod watchdog;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::KvStore;
use super::process_group::Abandoned;
use crate::config::ConfigError;
use monitor::Monitor;
use watchdog::Watchdog;

/// After an exchange has failed, who is silent this long is the one that is gone.
const SUSPICIOUS_SILENCE: Duration = Duration::from_secs(3);

const FAILURE: &str = "failure";
const SUSPICION: &str = "suspicion";
const ABANDONED: &str = "abandoned";
const STOP: &str = "stop";

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Activity {
    /// Reads weights, opens shards. May take any time.
    Preparing,
    Computing,
    /// Waits for images.
    WaitingForData,
    /// Waits for the other processes.
    WaitingForOthers,
    /// Writes a checkpoint. May take any time.
    Saving,
    /// Has come to its end.
    Left,
}

impl Activity {
    const ALL: [Self; 6] = [
        Self::Preparing,
        Self::Computing,
        Self::WaitingForData,
        Self::WaitingForOthers,
        Self::Saving,
        Self::Left,
    ];

    fn in_words(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Computing => "computing",
            Self::WaitingForData => "waiting for images",
            Self::WaitingForOthers => "waiting for the other ranks",
            Self::Saving => "saving",
            Self::Left => "at its end",
        }
    }
}

/// Why a run of many processes cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("rank {rank} ({host}) {what} at step {step}")]
pub struct Failure {
    /// The process that failed.
    pub rank: usize,
    /// Its node and process number.
    pub host: String,
    /// The step that it was working on, from 1.
    pub step: u64,
    pub what: String,
    /// It is the configuration's fault.
    pub usage: bool,
}

/// A process's note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sign {
    beat: u64,
    /// Grows whenever the training thread gets on.
    progress: u64,
    step: u64,
    activity: Activity,
    host: String,
}

/// What the threads of this process tell each other.
struct Shared {
    beat: AtomicU64,
    progress: AtomicU64,
    step: AtomicU64,
    activity: AtomicU8,
    /// An exchange failed here.
    suspicious: AtomicBool,
    /// The step that some process will not take part in; 0 for none.
    abandoned: AtomicU64,
    /// Some process was asked to stop.
    asked_to_stop: AtomicBool,
    /// Others can see that this process has come to its end.
    left: AtomicBool,
    ended: AtomicBool,
    failure: Mutex<Option<(Failure, Instant)>>,
    last_contact: Mutex<Instant>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn activity(&self) -> Activity {
        Activity::ALL[usize::from(self.activity.load(Ordering::Relaxed))]
    }

    fn fail(&self, failure: Failure) {
        locked(&self.failure).get_or_insert((failure, Instant::now()));
    }

    fn failure(&self) -> Option<Failure> {
        locked(&self.failure).as_ref().map(|(failure, _)| failure.clone())
    }
}

/// This process's signs of life, and its watch over the others'.
pub struct Heartbeat {
    shared: Arc<Shared>,
    store: Arc<dyn KvStore>,
    interval: Duration,
    threads: Vec<JoinHandle<()>>,
    host: String,
}

impl Heartbeat {
    /// Begins to give signs of life over `store`, which no other thread uses. `keeper` says in words
    /// who keeps the notes, `stop` whether this process was asked to stop.
    ///
    /// # Errors
    /// No more threads can be started.
    pub fn start(
        store: Arc<dyn KvStore>,
        timeout: Duration,
        keeper: String,
        stop: fn() -> bool,
    ) -> Result<Self> {
        let interval = (timeout / 10).clamp(Duration::from_millis(50), Duration::from_secs(1));
        let shared = Arc::new(Shared {
            beat: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            step: AtomicU64::new(0),
            activity: AtomicU8::new(Activity::Preparing as u8),
            suspicious: AtomicBool::new(false),
            abandoned: AtomicU64::new(0),
            asked_to_stop: AtomicBool::new(false),
            left: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            failure: Mutex::new(None),
            last_contact: Mutex::new(Instant::now()),
        });
        let host = host_and_process();
        let heart = Monitor::new(shared.clone(), store.clone(), (timeout, interval), &keeper, stop);
        let watch = Watchdog { shared: shared.clone(), timeout, interval, keeper };
        let threads = vec![
            thread::Builder::new().name("heartbeat".into()).spawn(move || heart.run())?,
            thread::Builder::new().name("watch".into()).spawn(move || watch.run())?,
        ];
        Ok(Self { shared, store, interval, threads, host })
    }

    /// Says that the training thread gets on, and where it is: `step` is the one it works on.
    pub fn progress(&self, step: u64) {
        self.shared.step.store(step, Ordering::Relaxed);
        self.shared.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Says what the training thread does from here on, and gives what it did.
    pub fn doing(&self, activity: Activity) -> Activity {
        let before = self.shared.activity.swap(activity as u8, Ordering::Relaxed);
        self.shared.progress.fetch_add(1, Ordering::Relaxed);
        Activity::ALL[usize::from(before)]
    }

    /// # Errors
    /// The [`Failure`] of some process that ends the run.
    pub fn check(&self) -> Result<()> {
        match self.shared.failure() {
            None => Ok(()),
            Some(failure) => Err(failure.into()),
        }
    }

    /// Says that this process will not take part in `step`, and so none can finish it.
    ///
    /// # Errors
    /// The store is gone.
    pub fn abandon(&self, step: u64) -> Result<()> {
        self.shared.abandoned.store(step, Ordering::Relaxed);
        self.store.set(ABANDONED, step.to_string().as_bytes())
    }

    /// # Errors
    /// A process failed, or gave up the step that this one works on.
    pub fn check_step(&self) -> Result<()> {
        self.check()?;
        let (abandoned, step) = (&self.shared.abandoned, &self.shared.step);
        match abandoned.load(Ordering::Relaxed) {
            0 => Ok(()),
            given_up if given_up == step.load(Ordering::Relaxed) => Err(Abandoned.into()),
            _ => Ok(()),
        }
    }

    /// Whether a step was given up.
    pub fn is_any_abandoned(&self) -> bool {
        self.shared.abandoned.load(Ordering::Relaxed) > 0
    }

    /// Whether any process was asked to stop.
    pub fn is_asked_to_stop(&self) -> bool {
        self.shared.asked_to_stop.load(Ordering::Relaxed)
    }

    /// Tells the others that this process failed by itself with `error`.
    pub fn announce(&self, error: &anyhow::Error) {
        let shared = &self.shared;
        if let Some(failure) = shared.failure() {
            // A launcher takes the first process that ends for the one that failed.
            if failure.rank == 0 {
                thread::sleep(3 * self.interval);
            }
            return;
        }
        let failure = Failure {
            rank: self.store.rank(),
            host: self.host.clone(),
            step: shared.step.load(Ordering::Relaxed),
            what: format!("failed ({error:#})"),
            usage: error.chain().any(|cause| cause.is::<ConfigError>()),
        };
        if post(&*self.store, &failure).is_ok() && failure.rank == 0 {
            // It may take the store along when it ends: the others must have read this.
            thread::sleep(2 * self.interval);
        }
    }

    /// Who is to blame for an exchange that failed with `error`: waits until that is known.
    pub fn blame(&self, error: anyhow::Error) -> anyhow::Error {
        self.shared.suspicious.store(true, Ordering::Relaxed);
        let _ = self.store.set(SUSPICION, b"");
        let begun = Instant::now();
        while begun.elapsed() < SUSPICIOUS_SILENCE * 2 + 2 * self.interval {
            if let Err(failure) = self.check_step() {
                return failure;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let step = self.shared.step.load(Ordering::Relaxed);
        error.context(format!("the exchange with the other ranks failed at step {step}"))
    }

    /// Says that this process has come to its end; rank 0 waits until all others have said so,
    /// because it may keep the store.
    ///
    /// # Errors
    /// A process failed instead.
    pub fn leave(&self) -> Result<()> {
        self.doing(Activity::Left);
        while !self.shared.left.load(Ordering::Acquire) {
            self.check()?;
            thread::sleep(self.interval / 10);
        }
        if self.store.rank() == 0 {
            for rank in 1..self.store.world_size() {
                while !self.has_left(rank)? {
                    self.check()?;
                    thread::sleep(self.interval / 5);
                }
            }
        }
        Ok(())
    }

    fn has_left(&self, rank: usize) -> Result<bool> {
        let sign = self.store.get(&key(rank))?.and_then(|note| read::<Sign>(&note));
        Ok(sign.is_some_and(|sign| sign.activity == Activity::Left))
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // A thread that a dead store holds up is left behind.
        let begun = Instant::now();
        while begun.elapsed() < 2 * self.interval
            && !self.threads.iter().all(JoinHandle::is_finished)
        {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn key(rank: usize) -> String {
    format!("heartbeat/{rank}")
}

fn read<T: for<'a> Deserialize<'a>>(note: &[u8]) -> Option<T> {
    serde_json::from_slice(note).ok()
}

/// The first failure that is put up is everybody's.
fn post(store: &dyn KvStore, failure: &Failure) -> Result<()> {
    if store.get(FAILURE)?.is_none() {
        store.set(FAILURE, &serde_json::to_vec(failure)?)?;
    }
    Ok(())
}

/// In a process that a launcher started anew, and that finds the store of the attempt before still
/// there: tells the others of that attempt that its former self is gone, so that they end too.
///
/// # Errors
/// The store is gone by now.
pub fn report_former_self(store: &dyn KvStore) -> Result<()> {
    let rank = store.rank();
    let sign = store.get(&key(rank))?.and_then(|note| read::<Sign>(&note));
    let (host, step) = sign.map_or((host_and_process(), 0), |sign| (sign.host, sign.step));
    let what = "was started anew: its former process was gone".into();
    post(store, &Failure { rank, host, step, what, usage: false })
}

fn host_and_process() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{name}, process {}", std::process::id())
}
