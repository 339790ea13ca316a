//! The thread that talks to the store: gives signs of life, and judges those of others.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{
    ABANDONED, Activity, FAILURE, Failure, STOP, SUSPICION, SUSPICIOUS_SILENCE, Shared, Sign,
    host_and_process, key, locked, post, read,
};
use crate::dist::KvStore;

/// What was last seen of a process.
struct Seen {
    rank: usize,
    sign: Option<Sign>,
    /// When its beat last changed.
    alive: Instant,
    /// When its progress last changed.
    moved: Instant,
}

/// Gives signs of life and reads those of others: rank 0 of all, the others of rank 0.
pub struct Monitor {
    shared: Arc<Shared>,
    store: Arc<dyn KvStore>,
    timeout: Duration,
    interval: Duration,
    host: String,
    keeper: String,
    stop: fn() -> bool,
    /// When the others' signs were last read. Not at every beat: rank 0 may have a thousand to read.
    looked: Instant,
    is_suspicious: bool,
    seen: Vec<Seen>,
}

impl Monitor {
    pub fn new(
        shared: Arc<Shared>,
        store: Arc<dyn KvStore>,
        (timeout, interval): (Duration, Duration),
        keeper: &str,
        stop: fn() -> bool,
    ) -> Self {
        let now = Instant::now();
        let watched = match store.rank() {
            0 => 0..store.world_size(),
            _ => 0..1,
        };
        let seen = watched.map(|rank| Seen { rank, sign: None, alive: now, moved: now }).collect();
        let (host, keeper) = (host_and_process(), keeper.to_string());
        Self {
            shared,
            store,
            timeout,
            interval,
            host,
            keeper,
            stop,
            looked: now,
            is_suspicious: false,
            seen,
        }
    }

    /// Until the heartbeat ends or the store is lost.
    pub fn run(mut self) {
        while !self.shared.ended.load(Ordering::Relaxed) {
            match self.beat() {
                Ok(()) => *locked(&self.shared.last_contact) = Instant::now(),
                // Who has left does not mind that rank 0, and the store with it, does so too.
                Err(_) if self.shared.left.load(Ordering::Relaxed) => return,
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
        self.shared.fail(Failure { rank: 0, host: self.keeper.clone(), step, what, usage: false });
    }

    fn beat(&mut self) -> Result<()> {
        let (shared, store) = (self.shared.clone(), self.store.clone());
        let beat = shared.beat.load(Ordering::Relaxed);
        let sign = Sign {
            beat,
            progress: shared.progress.load(Ordering::Relaxed),
            step: shared.step.load(Ordering::Relaxed),
            activity: shared.activity(),
            host: self.host.clone(),
        };
        store.set(&key(store.rank()), &serde_json::to_vec(&sign)?)?;
        if sign.activity == Activity::Left {
            shared.left.store(true, Ordering::Release);
        }
        shared.beat.store(beat + 1, Ordering::Release);
        if let Some(failure) = store.get(FAILURE)?.and_then(|note| read(&note)) {
            shared.fail(failure);
        }
        if let Some(step) = store.get(ABANDONED)?.and_then(|note| read(&note)) {
            shared.abandoned.store(step, Ordering::Relaxed);
        }
        if (self.stop)() && !shared.asked_to_stop.load(Ordering::Relaxed) {
            store.set(STOP, b"")?;
        }
        if store.get(STOP)?.is_some() {
            shared.asked_to_stop.store(true, Ordering::Relaxed);
        }
        if store.rank() == 0 && store.get(SUSPICION)?.is_some() {
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
        if let Some(failure) = self.verdict() {
            post(&*store, &failure)?;
            // Another one may have been faster.
            shared.fail(store.get(FAILURE)?.and_then(|note| read(&note)).unwrap_or(failure));
        }
        Ok(())
    }

    fn look_at_others(&mut self) -> Result<()> {
        for seen in &mut self.seen {
            let Some(sign) = self.store.get(&key(seen.rank))?.and_then(|note| read::<Sign>(&note))
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
    fn verdict(&self) -> Option<Failure> {
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
                format!("has given no sign of life for {seconds:.0} s,"),
            ));
        }
        self.standstill()
    }

    /// Every process lives, and none gets on: to blame is who does not wait for the others. Only
    /// rank 0 sees all of them, itself included. Preparing and saving may take any time.
    fn standstill(&self) -> Option<Failure> {
        let free = [Activity::Preparing, Activity::Saving, Activity::Left];
        let stands = |seen: &Seen| {
            seen.moved.elapsed() > self.timeout
                && seen.sign.as_ref().is_some_and(|sign| !free.contains(&sign.activity))
        };
        if self.store.rank() != 0 || !self.seen.iter().all(stands) {
            return None;
        }
        let activity = |seen: &Seen| seen.sign.as_ref().map(|sign| sign.activity);
        let waits = |seen: &&Seen| activity(seen) == Some(Activity::WaitingForOthers);
        let seconds = self.seen.iter().map(|seen| seen.moved.elapsed()).min()?.as_secs_f64();
        let Some(seen) = self.seen.iter().find(|seen| !waits(seen)) else {
            let what = format!(
                "and all others have waited for each other for {seconds:.0} s: the network between \
                 them carries nothing,"
            );
            return Some(failure_of(self.seen.first()?, what));
        };
        let doing = activity(seen).map_or("", Activity::in_words);
        Some(failure_of(seen, format!("hangs: it has been {doing} for {seconds:.0} s,")))
    }
}

fn failure_of(seen: &Seen, what: String) -> Failure {
    let (step, host) = match &seen.sign {
        Some(sign) => (sign.step, sign.host.clone()),
        None => (0, "never seen".into()),
    };
    Failure { rank: seen.rank, host, step, what, usage: false }
}
