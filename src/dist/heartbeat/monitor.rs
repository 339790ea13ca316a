//! The monitor: the thread that sends heartbeats, and judges those of others.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::lifeline::Lifeline;
use super::notes::{
    ABANDONED, FAILURE, Failure, STOP, SUSPICION, Sign, host_and_process, key, post, read, sign_of,
};
use super::shared::{Answer, SUSPICIOUS_SILENCE, Seen, Shared, locked};
use crate::dist::activity::Activity;
use crate::dist::kv_store::KvStore;

/// How many timeouts one process may take over one piece of work that it does alone: a batch of an
/// evaluation, a tensor of an export, or the flush of a file. Slow storage takes minutes for what is
/// gigabytes in size; who merely computes or waits is judged after one timeout.
const TIMEOUTS_OF_WORK_DONE_ALONE: u32 = 3;

/// Longest time between two looks at the signs of the others, else a twentieth of the timeout. Not at
/// every beat: rank 0 may have a thousand to read.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// Sends heartbeats and reads those of others: rank 0 of all ranks, the others of rank 0.
pub(super) struct Monitor {
    shared: Arc<Shared>,
    store: Arc<dyn KvStore>,
    timeout: Duration,
    interval: Duration,
    host: String,
    keeper: String,
    stop: fn() -> bool,
    lifeline: Option<Lifeline>,
    is_suspicious: bool,
}

impl Monitor {
    pub fn new(
        shared: Arc<Shared>,
        store: Arc<dyn KvStore>,
        (timeout, interval): (Duration, Duration),
        keeper: &str,
        lifeline: Option<Lifeline>,
        stop: fn() -> bool,
    ) -> Self {
        let (host, keeper) = (host_and_process(), keeper.to_string());
        let is_suspicious = false;
        Self { shared, store, timeout, interval, host, keeper, stop, lifeline, is_suspicious }
    }

    /// Runs until the heartbeat ends or the store is lost.
    pub fn run(mut self) {
        while !self.shared.ended.load(Ordering::Relaxed) {
            match self.beat() {
                Ok(()) => *locked(&self.shared.last_contact) = Instant::now(),
                // A process that has finished ignores that rank 0, and the store with it, has too.
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
        let step = self.shared.thread.step();
        self.shared.fail(Failure { rank: 0, host: self.keeper.clone(), step, what, usage: false });
    }

    fn beat(&mut self) -> Result<()> {
        let (shared, store) = (self.shared.clone(), self.store.clone());
        let beat = shared.beat.load(Ordering::Relaxed);
        let sign = Sign {
            beat,
            progress: shared.thread.progress(),
            step: shared.thread.step(),
            activity: shared.thread.activity(),
            host: self.host.clone(),
            lifeline: self.lifeline.as_ref().map(|lifeline| lifeline.address),
            pace: shared.thread.pace(),
        };
        if let Some(lifeline) = &self.lifeline {
            lifeline.drain();
        }
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
        let is_due = |looked: Instant| looked.elapsed() >= LONGEST_LOOK.min(self.timeout / 20);
        let is_any_unseen = locked(&shared.seen).iter().any(|seen| seen.sign.is_none());
        if suspicious || is_any_unseen || locked(&shared.looked).is_none_or(is_due) {
            self.look_at_others()?;
            *locked(&shared.looked) = Some(Instant::now());
        }
        if suspicious && !std::mem::replace(&mut self.is_suspicious, true) {
            // What was read long ago says nothing about the last seconds.
            let now = Instant::now();
            locked(&shared.seen).iter_mut().for_each(|seen| seen.alive = now);
        }
        if let Some(failure) = self.verdict() {
            post(&*store, &failure)?;
            // Another one may have been faster.
            shared.fail(store.get(FAILURE)?.and_then(|note| read(&note)).unwrap_or(failure));
        }
        Ok(())
    }

    fn look_at_others(&self) -> Result<()> {
        let ranks: Vec<usize> = locked(&self.shared.seen).iter().map(|seen| seen.rank).collect();
        for (place, rank) in ranks.into_iter().enumerate() {
            // The store may take its time: a dump must not wait for that.
            let Some(sign) = sign_of(&*self.store, rank)? else { continue };
            let seen = &mut locked(&self.shared.seen)[place];
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

    /// The failure to publish, if there is one.
    fn verdict(&self) -> Option<Failure> {
        let patience = if self.is_suspicious {
            self.timeout.min(SUSPICIOUS_SILENCE.max(3 * self.interval))
        } else {
            self.timeout
        };
        let all = locked(&self.shared.seen);
        let is_gone = |seen: &&Seen| seen.answer == Answer::Gone;
        let is_silent = |seen: &&Seen| seen.alive.elapsed() > patience;
        let mut there = all.iter().filter(|seen| activity_of(seen) != Some(Activity::Left));
        let lost = there.clone().find(is_gone).or_else(|| there.find(is_silent));
        if let Some(seen) = lost {
            let seconds = seen.alive.elapsed().as_secs_f64();
            let gone = if is_gone(&seen) { " and its process is gone," } else { "" };
            let what = format!("has given no sign of life for {seconds:.0} s,{gone}");
            return Some(failure_of(seen, what));
        }
        if self.store.rank() > 0 {
            return None;
        }
        stalled(&all, self.timeout * TIMEOUTS_OF_WORK_DONE_ALONE)
            .or_else(|| standstill(&all, self.timeout))
    }
}

fn activity_of(seen: &Seen) -> Option<Activity> {
    seen.sign.as_ref().map(|sign| sign.activity)
}

/// A process that does something alone, for which the others wait, and makes no progress with it.
fn stalled(all: &[Seen], limit: Duration) -> Option<Failure> {
    let is_stalled = |seen: &&Seen| {
        activity_of(seen).is_some_and(Activity::is_done_alone) && seen.moved.elapsed() > limit
    };
    let seen = all.iter().find(is_stalled)?;
    let doing = activity_of(seen).map_or("", Activity::in_words);
    let what = format!(
        "hangs: it has been {doing} without progress for {:.0} s (a limit of \
         {TIMEOUTS_OF_WORK_DONE_ALONE} times distributed.timeout_seconds),",
        seen.moved.elapsed().as_secs_f64()
    );
    Some(failure_of(seen, what))
}

/// Every process lives, and none makes progress: to blame is who does not wait for the others, first of
/// all who waits for images: another may seem to compute, and be stuck in a call because of a sum that
/// the former does not take part in. Then who is behind. Only rank 0 sees all of them, itself included.
fn standstill(all: &[Seen], timeout: Duration) -> Option<Failure> {
    let stands = |seen: &Seen| {
        let is_judged = |activity: Activity| !activity.is_unlimited() && !activity.is_done_alone();
        seen.moved.elapsed() > timeout && activity_of(seen).is_some_and(is_judged)
    };
    if !all.iter().all(stands) {
        return None;
    }
    let rank = |seen: &&Seen| {
        let place = seen.sign.as_ref().map_or((0, 0), |sign| (sign.step, sign.progress));
        match activity_of(seen) {
            Some(Activity::WaitingForOthers) => None,
            Some(Activity::WaitingForData) => Some((0, place)),
            _ => Some((1, place)),
        }
    };
    let seconds = all.iter().map(|seen| seen.moved.elapsed()).min()?.as_secs_f64();
    let culprit = all.iter().filter(|seen| rank(seen).is_some()).min_by_key(rank);
    let Some(seen) = culprit else {
        let what = format!(
            "and all others have waited for each other for {seconds:.0} s: the network between \
             them carries nothing,"
        );
        return Some(failure_of(all.first()?, what));
    };
    let doing = activity_of(seen).map_or("", Activity::in_words);
    Some(failure_of(seen, format!("hangs: it has been {doing} for {seconds:.0} s,")))
}

fn failure_of(seen: &Seen, what: String) -> Failure {
    let (step, host) = match &seen.sign {
        Some(sign) => (sign.step, sign.host.clone()),
        None => (0, "never seen".into()),
    };
    Failure { rank: seen.rank, host, step, what, usage: false }
}
