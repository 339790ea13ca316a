//! The thread that watches the heartbeat of its own process and asks no other one.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use tracing::{debug, warn};

use super::notes::Failure;
use super::shared::{Shared, locked};
use crate::native::{exit_now, skip_destructors};

/// Time that the training thread gets to end by itself once a failure is known.
const LONGEST_END_AFTER_A_FAILURE: Duration = Duration::from_secs(10);

/// Within which the training thread comes to see by itself that a step was given up.
const LONGEST_STANDSTILL_IN_A_STEP_GIVEN_UP: Duration = Duration::from_secs(1);

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
        let mut is_freed = false;
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
            if !is_freed && self.is_stuck() {
                is_freed = true;
                self.free();
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

    /// Whether the training thread gets on in a step that some process gave up no more.
    fn is_stuck(&self) -> bool {
        let (shared, given_up) = (&self.shared, self.shared.abandoned.load(Ordering::Relaxed));
        given_up > 0
            && given_up == shared.thread.step()
            && shared.thread.quiet() > LONGEST_STANDSTILL_IN_A_STEP_GIVEN_UP
    }

    /// A GPU's queue takes about a thousand entries; then the next call into the driver blocks. Those that
    /// wait for sums with a process that gave up stay, until the collectives are aborted.
    fn free(&self) {
        let Some(collectives) = self.shared.collectives.get().and_then(Weak::upgrade) else {
            return;
        };
        debug!("the training thread is stuck in a step that was given up: collectives are aborted");
        skip_destructors();
        let thread = thread::Builder::new().name("free".into());
        if let Err(error) = thread.spawn(move || collectives.abort()) {
            warn!("cannot abort the collectives of a step that was given up: {error}");
        }
    }
}
