//! What the threads of a heartbeat tell each other.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::notes::{Failure, Sign};
use crate::dist::activity::TrainingThread;
use crate::native::c10d::Collectives;

/// After a collective has failed, a process that is silent for this long counts as gone.
pub(super) const SUSPICIOUS_SILENCE: Duration = Duration::from_secs(3);

/// Of how many ranks a dump tells, those that have made no progress for longest.
const RANKS_IN_A_DUMP: usize = 16;

/// What is known here about the run.
pub(super) struct Shared {
    pub thread: Arc<TrainingThread>,
    pub beat: AtomicU64,
    /// An exchange failed here.
    pub suspicious: AtomicBool,
    /// The step that some process will not take part in; 0 for none.
    pub abandoned: AtomicU64,
    /// Whether some process was asked to stop.
    pub asked_to_stop: AtomicBool,
    /// Whether others can see that this process has finished.
    pub left: AtomicBool,
    pub ended: AtomicBool,
    pub failure: Mutex<Option<(Failure, Instant)>>,
    pub last_contact: Mutex<Instant>,
    /// Those of a GPU, where a thread may be stuck in a call into a full queue.
    pub collectives: OnceLock<Weak<Collectives>>,
    /// When the signs of the processes that this one watches were last read.
    pub looked: Mutex<Option<Instant>>,
    /// What was then seen of them.
    pub seen: Mutex<Vec<Seen>>,
}

/// What was last seen of a process.
pub(super) struct Seen {
    pub rank: usize,
    pub sign: Option<Sign>,
    /// When its beat last changed.
    pub alive: Instant,
    /// When its progress last changed.
    pub moved: Instant,
    /// What its port says, and when that was tried last.
    pub answer: Answer,
    pub asked: Option<Instant>,
}

/// What is known of a process by its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Answer {
    #[default]
    NotAsked,
    /// It cannot be reached: a firewall, say. Its refusals mean nothing.
    Unreachable,
    /// It answered once.
    Lives,
    Gone,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Of a process that watches these ranks.
    pub fn new(thread: Arc<TrainingThread>, watched: impl Iterator<Item = usize>) -> Self {
        let now = Instant::now();
        let seen = watched
            .map(|rank| Seen {
                rank,
                sign: None,
                alive: now,
                moved: now,
                answer: Answer::NotAsked,
                asked: None,
            })
            .collect();
        Self {
            thread,
            beat: AtomicU64::new(0),
            suspicious: AtomicBool::new(false),
            abandoned: AtomicU64::new(0),
            asked_to_stop: AtomicBool::new(false),
            left: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            failure: Mutex::new(None),
            last_contact: Mutex::new(now),
            collectives: OnceLock::new(),
            looked: Mutex::new(None),
            seen: Mutex::new(seen),
        }
    }

    pub fn fail(&self, failure: Failure) {
        locked(&self.failure).get_or_insert((failure, Instant::now()));
    }

    pub fn failure(&self) -> Option<Failure> {
        locked(&self.failure).as_ref().map(|(failure, _)| failure.clone())
    }

    /// What a dump says: the contact with the store, a failure, and the ranks that are watched.
    pub fn describe(&self) -> String {
        let contact = locked(&self.last_contact).elapsed().as_secs_f64();
        let beats = self.beat.load(Ordering::Relaxed);
        let mut text = format!("{beats} beats, last contact with the store {contact:.1} s ago");
        if self.suspicious.load(Ordering::Relaxed) {
            text += "; an exchange has failed";
        }
        if self.asked_to_stop.load(Ordering::Relaxed) {
            text += "; a rank was asked to stop";
        }
        if let Some(failure) = self.failure() {
            let _ = write!(text, "; failure: {failure}");
        }
        let Some(looked) = *locked(&self.looked) else { return text };
        let _ = write!(text, "; ranks as read {:.1} s ago:", looked.elapsed().as_secs_f64());
        let seen = locked(&self.seen);
        let mut ranks: Vec<&Seen> = seen.iter().collect();
        ranks.sort_by_key(|seen| seen.moved);
        for seen in ranks.iter().take(RANKS_IN_A_DUMP) {
            let _ = write!(text, "\n{}", seen.describe());
        }
        if ranks.len() > RANKS_IN_A_DUMP {
            let rest = ranks.len() - RANKS_IN_A_DUMP;
            let _ = write!(text, "\nand {rest} ranks that made progress since");
        }
        text
    }
}

impl Seen {
    fn describe(&self) -> String {
        let alive = self.alive.elapsed().as_secs_f64();
        let moved = self.moved.elapsed().as_secs_f64();
        let Some(Sign { activity, step, host, .. }) = &self.sign else {
            return format!("rank {}: no sign of life for {alive:.1} s", self.rank);
        };
        format!(
            "rank {} ({host}): {} at step {step}, last beat {alive:.1} s ago, last progress \
             {moved:.1} s ago",
            self.rank,
            activity.in_words()
        )
    }
}
