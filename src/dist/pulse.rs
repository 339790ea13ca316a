//! Signs of life: how every process learns that one is dead, hung or cut off, and which.
//!
//! A thread of each process puts up a note every second or more often: how often it did so, at which
//! step the process is, and what it does. Rank 0 reads all of them, the others read that of rank 0.
//! Who finds one that stays the same for too long puts up a [`Failure`], which ends all. The store
//! itself may stop answering, so a second thread, which asks nobody, watches the first.
//!
//! The training thread looks at the outcome wherever it waits. Should it not (it may hang inside a
//! library), the second thread ends the process.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use super::Board;
use super::team::Abandoned;
use crate::config::ConfigError;

/// Seconds that the training thread gets to end by itself once a failure is known.
const GRACE: Duration = Duration::from_secs(10);
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
    /// Waits for pictures.
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
            Self::WaitingForData => "waiting for pictures",
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
    ended: AtomicBool,
    /// The training thread knows of the failure.
    told: AtomicBool,
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
pub struct Pulse {
    shared: Arc<Shared>,
    board: Arc<dyn Board>,
    interval: Duration,
    threads: Vec<JoinHandle<()>>,
    host: String,
}

impl Pulse {
    /// Begins to give signs of life over `board`, which no other thread uses. `store` says in words
    /// who keeps the notes, `stop` whether this process was asked to stop.
    ///
    /// # Errors
    /// No more threads can be started.
    pub fn start(
        board: Arc<dyn Board>,
        timeout: Duration,
        store: String,
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
            ended: AtomicBool::new(false),
            told: AtomicBool::new(false),
            failure: Mutex::new(None),
            last_contact: Mutex::new(Instant::now()),
        });
        let host = host_and_process();
        let heart = Heart {
            shared: shared.clone(),
            board: board.clone(),
            timeout,
            interval,
            host: host.clone(),
            store: store.clone(),
            stop,
            looked: Instant::now(),
            is_suspicious: false,
            seen: Vec::new(),
        };
        let watch = Watch { shared: shared.clone(), timeout, interval, store };
        let threads = vec![
            thread::Builder::new().name("pulse".into()).spawn(move || heart.run())?,
            thread::Builder::new().name("watch".into()).spawn(move || watch.run())?,
        ];
        Ok(Self { shared, board, interval, threads, host })
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
            Some(failure) => {
                self.shared.told.store(true, Ordering::Relaxed);
                Err(failure.into())
            }
        }
    }

    /// Says that this process will not take part in `step`, and so none can finish it.
    ///
    /// # Errors
    /// The store is gone.
    pub fn abandon(&self, step: u64) -> Result<()> {
        self.shared.abandoned.store(step, Ordering::Relaxed);
        self.board.put(ABANDONED, step.to_string().as_bytes())
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
        shared.told.store(true, Ordering::Relaxed);
        if let Some(failure) = shared.failure() {
            // A launcher takes the first process that ends for the one that failed.
            if failure.rank == 0 {
                thread::sleep(3 * self.interval);
            }
            return;
        }
        let failure = Failure {
            rank: self.board.rank(),
            host: self.host.clone(),
            step: shared.step.load(Ordering::Relaxed),
            what: format!("failed ({error:#})"),
            usage: error.chain().any(|cause| cause.is::<ConfigError>()),
        };
        if post(&*self.board, &failure).is_ok() && failure.rank == 0 {
            // It may take the store along when it ends: the others must have read this.
            thread::sleep(2 * self.interval);
        }
    }

    /// Who is to blame for an exchange that failed with `error`: waits until that is known.
    pub fn blame(&self, error: anyhow::Error) -> anyhow::Error {
        self.shared.suspicious.store(true, Ordering::Relaxed);
        let _ = self.board.put(SUSPICION, b"");
        let begun = Instant::now();
        while begun.elapsed() < SUSPICIOUS_SILENCE * 2 + 2 * self.interval {
            if let Err(failure) = self.check_step() {
                return failure;
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.shared.told.store(true, Ordering::Relaxed);
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
        let others = 1..self.board.world_size();
        let gone = |rank| -> Result<bool> {
            let note = self.board.look(&key(rank))?;
            Ok(note
                .and_then(|note| read(&note))
                .is_some_and(|sign: Sign| sign.activity == Activity::Left))
        };
        // Its own last sign must be up before this process goes.
        let beat = self.shared.beat.load(Ordering::Acquire);
        while self.shared.beat.load(Ordering::Acquire) < beat + 2 {
            self.check()?;
            thread::sleep(self.interval / 10);
        }
        if self.board.rank() == 0 {
            for rank in others {
                while !gone(rank)? {
                    self.check()?;
                    thread::sleep(self.interval / 5);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Pulse {
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
    format!("pulse/{rank}")
}

fn read<T: for<'a> Deserialize<'a>>(note: &[u8]) -> Option<T> {
    serde_json::from_slice(note).ok()
}

/// The first failure that is put up is everybody's.
fn post(board: &dyn Board, failure: &Failure) -> Result<()> {
    if board.look(FAILURE)?.is_none() {
        board.put(FAILURE, &serde_json::to_vec(failure)?)?;
    }
    Ok(())
}

fn host_and_process() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{name}, process {}", std::process::id())
}

/// What was last seen of another process.
struct Seen {
    rank: usize,
    sign: Option<Sign>,
    /// When its beat last changed.
    alive: Instant,
    /// When its progress last changed.
    moved: Instant,
}

/// The thread that talks to the store.
struct Heart {
    shared: Arc<Shared>,
    board: Arc<dyn Board>,
    timeout: Duration,
    interval: Duration,
    host: String,
    store: String,
    stop: fn() -> bool,
    /// When the others' signs were last read. Not at every beat: rank 0 may have a thousand to read.
    looked: Instant,
    is_suspicious: bool,
    seen: Vec<Seen>,
}

impl Heart {
    fn run(mut self) {
        let now = Instant::now();
        let watched = match self.board.rank() {
            0 => 1..self.board.world_size(),
            _ => 0..1,
        };
        self.seen = watched.map(|rank| Seen { rank, sign: None, alive: now, moved: now }).collect();
        while !self.shared.ended.load(Ordering::Relaxed) {
            match self.beat() {
                Ok(()) => *locked(&self.shared.last_contact) = Instant::now(),
                Err(_) if self.shared.ended.load(Ordering::Relaxed) => return,
                Err(error) => {
                    let what = format!("is gone, and the run's store with it ({error:#}),");
                    return self.lost_store(what);
                }
            }
            thread::sleep(self.interval);
        }
    }

    fn lost_store(&self, what: String) {
        let step = self.shared.step.load(Ordering::Relaxed);
        self.shared.fail(Failure { rank: 0, host: self.store.clone(), step, what, usage: false });
    }

    fn beat(&mut self) -> Result<()> {
        let (shared, board) = (self.shared.clone(), self.board.clone());
        let beat = shared.beat.load(Ordering::Relaxed);
        let sign = Sign {
            beat,
            progress: shared.progress.load(Ordering::Relaxed),
            step: shared.step.load(Ordering::Relaxed),
            activity: shared.activity(),
            host: self.host.clone(),
        };
        board.put(&key(board.rank()), &serde_json::to_vec(&sign)?)?;
        shared.beat.store(beat + 1, Ordering::Release);
        if let Some(failure) = board.look(FAILURE)?.and_then(|note| read(&note)) {
            shared.fail(failure);
        }
        if let Some(step) = board.look(ABANDONED)?.and_then(|note| read(&note)) {
            shared.abandoned.store(step, Ordering::Relaxed);
        }
        if (self.stop)() && !shared.asked_to_stop.load(Ordering::Relaxed) {
            board.put(STOP, b"")?;
        }
        if board.look(STOP)?.is_some() {
            shared.asked_to_stop.store(true, Ordering::Relaxed);
        }
        if board.rank() == 0 && board.look(SUSPICION)?.is_some() {
            shared.suspicious.store(true, Ordering::Relaxed);
        }
        let suspicious = shared.suspicious.load(Ordering::Relaxed);
        if suspicious || self.looked.elapsed() >= self.timeout / 20 {
            self.looked = Instant::now();
            self.look_at_others()?;
        }
        if suspicious && !std::mem::replace(&mut self.is_suspicious, true) {
            // What was read long ago tells nothing of the last seconds.
            self.seen.iter_mut().for_each(|seen| seen.alive = Instant::now());
        }
        if let Some(failure) = self.verdict(&sign) {
            post(&*board, &failure)?;
            // Another one may have been faster.
            shared.fail(board.look(FAILURE)?.and_then(|note| read(&note)).unwrap_or(failure));
        }
        Ok(())
    }

    fn look_at_others(&mut self) -> Result<()> {
        for seen in &mut self.seen {
            let Some(sign) = self.board.look(&key(seen.rank))?.and_then(|note| read::<Sign>(&note))
            else {
                continue;
            };
            let before = seen.sign.replace(sign.clone());
            if before.as_ref().is_none_or(|before| before.beat != sign.beat) {
                seen.alive = Instant::now();
            }
            if before.is_none_or(|before| before.progress != sign.progress) {
                seen.moved = Instant::now();
            }
        }
        Ok(())
    }

    /// Who is to blame, if anybody is.
    fn verdict(&self, own: &Sign) -> Option<Failure> {
        let patience = if self.is_suspicious {
            self.timeout.min(SUSPICIOUS_SILENCE.max(3 * self.interval))
        } else {
            self.timeout
        };
        let silent = self.seen.iter().find(|seen| {
            let left = seen.sign.as_ref().is_some_and(|sign| sign.activity == Activity::Left);
            !left && seen.alive.elapsed() > patience
        });
        if let Some(seen) = silent {
            let seconds = seen.alive.elapsed().as_secs_f64();
            return Some(failure_of(
                seen,
                own.step,
                format!("has given no sign of life for {seconds:.0} s,"),
            ));
        }
        // Nobody gets on: to blame is who does not wait for the others. Only rank 0 sees all.
        if own.activity != Activity::WaitingForOthers || self.board.rank() != 0 {
            return None;
        }
        let stuck = |seen: &&Seen| {
            seen.moved.elapsed() > self.timeout
                && seen.sign.as_ref().is_some_and(|sign| {
                    matches!(sign.activity, Activity::Computing | Activity::WaitingForData)
                })
        };
        let seen = self.seen.iter().find(stuck)?;
        let doing = seen.sign.as_ref().map_or("", |sign| sign.activity.in_words());
        let seconds = seen.moved.elapsed().as_secs_f64();
        Some(failure_of(seen, own.step, format!("hangs: it has been {doing} for {seconds:.0} s,")))
    }
}

fn failure_of(seen: &Seen, step: u64, what: String) -> Failure {
    let (step, host) = match &seen.sign {
        Some(sign) => (sign.step, sign.host.clone()),
        None => (step, "never seen".into()),
    };
    Failure { rank: seen.rank, host, step, what, usage: false }
}

/// The thread that asks nobody.
struct Watch {
    shared: Arc<Shared>,
    timeout: Duration,
    interval: Duration,
    store: String,
}

impl Watch {
    fn run(self) {
        while !self.shared.ended.load(Ordering::Relaxed) {
            let silence = locked(&self.shared.last_contact).elapsed();
            if silence > self.timeout + 2 * self.interval {
                self.shared.fail(Failure {
                    rank: 0,
                    host: self.store.clone(),
                    step: self.shared.step.load(Ordering::Relaxed),
                    what: format!("has not answered for {:.0} s", silence.as_secs_f64()),
                    usage: false,
                });
            }
            let known = locked(&self.shared.failure).clone();
            if let Some((failure, since)) = known
                && since.elapsed() > GRACE
            {
                if !self.shared.told.load(Ordering::Relaxed) {
                    eprintln!("error: {:#}", anyhow!(failure));
                }
                std::process::exit(1);
            }
            thread::sleep(self.interval / 2);
        }
    }
}
