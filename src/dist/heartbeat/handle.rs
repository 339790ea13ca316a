//! A process's side of its heartbeat: what the training thread says and asks.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::lifeline::{self, Lifeline};
use super::monitor::Monitor;
use super::notes::{ABANDONED, Failure, SUSPICION, Sign, host_and_process, post, sign_of};
use super::shared::{SUSPICIOUS_SILENCE, Seen, Shared, locked};
use super::watchdog::Watchdog;
use crate::config::ConfigError;
use crate::dist::activity::{Activity, TrainingThread};
use crate::dist::error::Abandoned;
use crate::dist::kv_store::KvStore;
use crate::dist::pace::RankPace;
use crate::native::c10d::Collectives;
use crate::status::{self, Registration};

/// Bounds of the time between two signs of life, which is a tenth of the timeout.
const SHORTEST_BEAT: Duration = Duration::from_millis(50);
const LONGEST_BEAT: Duration = Duration::from_secs(1);

/// How often the verdict is looked for after an exchange has failed.
const VERDICT_POLL: Duration = Duration::from_millis(20);

/// The heartbeat of this process, and its check of the others'.
pub struct Heartbeat {
    shared: Arc<Shared>,
    store: Arc<dyn KvStore>,
    interval: Duration,
    threads: Vec<JoinHandle<()>>,
    host: String,
    _status: Registration,
}

impl Heartbeat {
    /// Begins to give signs of life of `thread` over `store`, which no other thread uses. `keeper`
    /// says in words who keeps the notes, `address` where rank 0 reaches this node, `stop` whether this
    /// process was asked to stop.
    pub(in crate::dist) fn start(
        thread: Arc<TrainingThread>,
        store: Arc<dyn KvStore>,
        timeout: Duration,
        keeper: String,
        address: Option<IpAddr>,
        stop: fn() -> bool,
    ) -> Result<Self> {
        let interval = (timeout / 10).clamp(SHORTEST_BEAT, LONGEST_BEAT);
        let watched = match store.rank() {
            0 => 0..store.world_size(),
            _ => 0..1,
        };
        let shared = Arc::new(Shared::new(thread, watched));
        // Without it silence is all that tells.
        let lifeline = address.and_then(|address| Lifeline::open(address).ok());
        let times = (timeout, interval);
        let monitor = Monitor::new(shared.clone(), store.clone(), times, &keeper, lifeline, stop);
        let watchdog = Watchdog { shared: shared.clone(), timeout, interval, keeper };
        let mut threads = vec![
            thread::Builder::new().name("heartbeat".into()).spawn(move || monitor.run())?,
            thread::Builder::new().name("watchdog".into()).spawn(move || watchdog.run())?,
        ];
        if store.rank() == 0 {
            let shared = shared.clone();
            let lifelines = thread::Builder::new().name("lifelines".into());
            threads.push(lifelines.spawn(move || lifeline::watch(shared))?);
        }
        let described = shared.clone();
        let status = status::register("heartbeat", move || described.describe());
        Ok(Self { shared, store, interval, threads, host: host_and_process(), _status: status })
    }

    /// Has `collectives` aborted when the training thread is stuck in a step that was given up.
    pub(in crate::dist) fn frees_with(&self, collectives: Weak<Collectives>) {
        let _ = self.shared.collectives.set(collectives);
    }

    /// Fails with the [`Failure`] that ends the run, if there is one.
    pub fn check(&self) -> Result<()> {
        match self.shared.failure() {
            None => Ok(()),
            Some(failure) => Err(failure.into()),
        }
    }

    /// What each process that this one watches has spent its steps on, as last read.
    pub fn paces(&self) -> Vec<RankPace> {
        let of = |seen: &Seen| {
            let Sign { host, pace, .. } = seen.sign.as_ref()?;
            Some(RankPace { rank: seen.rank, host: host.clone(), pace: *pace })
        };
        locked(&self.shared.seen).iter().filter_map(of).collect()
    }

    /// Announces that this process gives `step` up, so that none can finish it.
    pub fn abandon(&self, step: u64) -> Result<()> {
        self.shared.abandoned.store(step, Ordering::Relaxed);
        self.store.set(ABANDONED, step.to_string().as_bytes())
    }

    /// # Errors
    /// A process failed, or gave up the step that this one works on.
    pub fn check_step(&self) -> Result<()> {
        self.check()?;
        match self.shared.abandoned.load(Ordering::Relaxed) {
            0 => Ok(()),
            given_up if given_up == self.shared.thread.step() => Err(Abandoned.into()),
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
            step: shared.thread.step(),
            what: format!("failed ({error:#})"),
            usage: error.chain().any(|cause| cause.is::<ConfigError>()),
        };
        if post(&*self.store, &failure).is_ok() && failure.rank == 0 {
            // It may take the store along when it ends: the others must have read this.
            thread::sleep(2 * self.interval);
        }
    }

    /// The failure behind a collective that failed with `error`; waits until it is known.
    pub fn blame(&self, error: anyhow::Error) -> anyhow::Error {
        self.shared.suspicious.store(true, Ordering::Relaxed);
        let _ = self.store.set(SUSPICION, b"");
        let begun = Instant::now();
        while begun.elapsed() < SUSPICIOUS_SILENCE * 2 + 2 * self.interval {
            if let Err(failure) = self.check_step() {
                return failure;
            }
            thread::sleep(VERDICT_POLL);
        }
        let step = self.shared.thread.step();
        error.context(format!("the exchange with the other ranks failed at step {step}"))
    }

    /// Announces that this process has finished; rank 0 waits until all others have, because it may
    /// keep the store.
    pub fn leave(&self) -> Result<()> {
        self.shared.thread.stay(Activity::Left);
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
        let sign = sign_of(&*self.store, rank)?;
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
