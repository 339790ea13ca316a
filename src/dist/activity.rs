//! What the training thread of a process does: for its heartbeat, and for who asks where it is.

use std::borrow::Cow;
use std::fmt::Write;
use std::marker::PhantomData;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::pace::Pace;
use crate::status::{self, Progress};

/// What a training thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// Reads weights, opens shards. May take any time.
    Preparing,
    Computing,
    /// Waits for images.
    WaitingForData,
    /// Waits for the other processes.
    WaitingForOthers,
    /// Copies its state for a checkpoint, and waits for one to be written. May take any time.
    Saving,
    /// Draws images of what the models do.
    Drawing,
    /// Writes encoders for other software.
    Exporting,
    /// Measures encoders.
    Evaluating,
    /// Has come to its end.
    Left,
}

impl Activity {
    /// As it stands in a sentence: "it has been computing".
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Computing => "computing",
            Self::WaitingForData => "waiting for images",
            Self::WaitingForOthers => "waiting for the other ranks",
            Self::Saving => "saving",
            Self::Drawing => "drawing reconstructions",
            Self::Exporting => "exporting encoders",
            Self::Evaluating => "evaluating encoders",
            Self::Left => "finished",
        }
    }

    /// Whether it may go on for any time without progress.
    pub(super) fn is_unlimited(self) -> bool {
        matches!(self, Self::Preparing | Self::Saving | Self::Left)
    }

    /// Whether one process does it while the others do something else, or wait: its progress is
    /// judged alone, and by a longer limit.
    pub(super) fn is_done_alone(self) -> bool {
        matches!(self, Self::Drawing | Self::Exporting | Self::Evaluating)
    }
}

/// Where the training thread of this process is. It writes; other threads read.
pub(super) struct TrainingThread {
    started: Instant,
    /// Grows whenever the thread gets on.
    progress: AtomicU64,
    /// Milliseconds from `started` to when it last grew.
    moved: AtomicU64,
    /// The step that is worked on, from 1; 0 before the first.
    step: AtomicU64,
    now: Mutex<Now>,
    pace: Mutex<Pace>,
}

/// What the thread does, and since when.
struct Now {
    activity: Activity,
    since: Instant,
    /// What it waits for, where that has a name.
    pending: Option<Cow<'static, str>>,
}

/// A process's training thread does something until this is dropped; then again what it did before.
#[must_use = "the activity ends when this is dropped"]
pub struct ActivityGuard<'a> {
    thread: &'a TrainingThread,
    before: Now,
    progress_before: Option<Arc<dyn Progress>>,
    /// It ends on the thread that it began on.
    _thread: PhantomData<*const ()>,
}

impl TrainingThread {
    pub(super) fn new() -> Self {
        let started = Instant::now();
        let now = Now { activity: Activity::Preparing, since: started, pending: None };
        Self {
            started,
            progress: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            step: AtomicU64::new(0),
            now: Mutex::new(now),
            pace: Mutex::default(),
        }
    }

    /// [`Self::beat`], and that `step` is worked on.
    pub(super) fn begin_step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
        self.beat();
    }

    /// What the thread does until the guard is dropped, and the name of what it waits for, if any.
    pub(super) fn enter(
        self: &Arc<Self>,
        activity: Activity,
        pending: Option<Cow<'static, str>>,
    ) -> ActivityGuard<'_> {
        let now = Now { activity, since: Instant::now(), pending };
        let before = mem::replace(&mut *self.now(), now);
        self.beat();
        let progress_before = status::note_progress_in(Some(self.clone()));
        ActivityGuard { thread: self, before, progress_before, _thread: PhantomData }
    }

    /// What the thread does from here on, for good.
    pub(super) fn stay(&self, activity: Activity) {
        *self.now() = Now { activity, since: Instant::now(), pending: None };
        self.beat();
    }

    /// Adds what steps were spent on.
    pub(super) fn took(&self, pace: Pace) {
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner) += pace;
    }

    /// What all its steps were spent on.
    pub(super) fn pace(&self) -> Pace {
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    pub(super) fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Since when it has made no progress.
    pub(super) fn quiet(&self) -> Duration {
        let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(moved)
    }

    pub(super) fn activity(&self) -> Activity {
        self.now().activity
    }

    /// What, at which step, for how long, waiting for what; in a line.
    pub(super) fn describe(&self) -> String {
        let Now { activity, since, pending } = &*self.now();
        let seconds = since.elapsed().as_secs_f64();
        let mut text = activity.in_words().to_string();
        if let Some(pending) = pending {
            let _ = write!(text, " ({pending})");
        }
        let quiet = self.quiet().as_secs_f64();
        let _ = write!(
            text,
            " for {seconds:.1} s, at step {}; last progress {quiet:.1} s ago",
            self.step()
        );
        text
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for TrainingThread {
    fn beat(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
        let moved = self.started.elapsed().as_millis() as u64;
        self.moved.store(moved, Ordering::Relaxed);
    }
}

impl Drop for ActivityGuard<'_> {
    fn drop(&mut self) {
        mem::swap(&mut *self.thread.now(), &mut self.before);
        self.thread.beat();
        status::note_progress_in(self.progress_before.take());
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Result, bail};

    use super::*;

    /// An error does not leave an activity behind, and what it nests in comes back.
    #[test]
    fn an_activity_ends_with_its_guard() {
        let thread = Arc::new(TrainingThread::new());
        let fails = || -> Result<()> {
            let _saving = thread.enter(Activity::Saving, None);
            status::beat();
            let _waiting = thread.enter(Activity::WaitingForOthers, Some("a sum".into()));
            assert!(thread.describe().starts_with("waiting for the other ranks (a sum) for 0.0 s"));
            bail!("a rank is gone")
        };
        let progress = thread.progress();
        assert!(fails().is_err());
        assert_eq!(thread.activity(), Activity::Preparing);
        assert_eq!(thread.progress(), progress + 5, "each change is progress");
        status::beat();
        assert_eq!(thread.progress(), progress + 5, "this thread does nothing for it now");
        thread.begin_step(7);
        assert!(thread.describe().ends_with("at step 7; last progress 0.0 s ago"));
    }
}
