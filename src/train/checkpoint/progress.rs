//! How far a save in the background has come, for who asks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What the thread that saves does.
#[derive(Default)]
pub(super) struct SaveProgress(Mutex<Doing>);

#[derive(Default)]
enum Doing {
    /// Nothing was saved yet.
    #[default]
    Nothing,
    Saving {
        step: u64,
        what: &'static str,
        since: Instant,
    },
    Ended {
        step: u64,
        is_saved: bool,
        since: Instant,
    },
}

impl SaveProgress {
    /// The checkpoint of `step` is under way: from here on it is at `what`.
    pub fn at(&self, step: u64, what: &'static str) {
        *self.doing() = Doing::Saving { step, what, since: Instant::now() };
    }

    /// The save of `step` has ended.
    pub fn end(&self, step: u64, is_saved: bool) {
        *self.doing() = Doing::Ended { step, is_saved, since: Instant::now() };
    }

    /// The same in a line.
    pub fn describe(&self) -> String {
        let seconds = |since: &Instant| since.elapsed().as_secs_f64();
        match &*self.doing() {
            Doing::Nothing => "none under way, none saved yet".into(),
            Doing::Saving { step, what, since } => {
                format!("step {step}: {what} for {:.1} s", seconds(since))
            }
            Doing::Ended { step, is_saved, since } => {
                let how = if *is_saved { "saved" } else { "failed" };
                format!("none under way, step {step} {how} {:.1} s ago", seconds(since))
            }
        }
    }

    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
