//! The thread that watches the heartbeat of its own process and asks no other one.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::notes::Failure;
use super::shared::{Shared, locked};
use crate::native::exit_now;

/// Time that the training thread gets to end by itself once a failure is known.
const LONGEST_END_AFTER_A_FAILURE: Duration = Duration::from_secs(10);

/// Watches the thread that talks to the store, and ends the process if nothing else does.
pub(super) struct Watchdog {
    pub shared: Arc<Shared>,
    pub timeout: Duration,
    pub interval: Duration,
    pub keeper: String,
}

impl Watchdog {
    /// Runs until the heartbeat ends.
    pub fn run(self) {
        while !self.shared.ended.load(Ordering::Relaxed) {
            let silence = locked(&self.shared.last_contact).elapsed();
            if silence > self.timeout + 2 * self.interval {
                self.shared.fail(Failure {
                    rank: 0,
                    host: self.keeper.clone(),
                    step: self.shared.thread.step(),
                    what: format!("has not answered for {:.0} s", silence.as_secs_f64()),
                    usage: false,
                });
            }
            let known = locked(&self.shared.failure).clone();
            if let Some((failure, since)) = known
                && since.elapsed() > LONGEST_END_AFTER_A_FAILURE
            {
                // Nobody may read it any more.
                let _ = writeln!(io::stderr(), "error: {failure}");
                exit_now(1);
            }
            thread::sleep(self.interval / 2);
        }
    }
}
