//! Images that do not decode: counted, named once each, and bounded.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Error, Result, ensure};

/// How many images were tried since the data set was opened, and how many of them failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FailureCounts {
    pub tried: u64,
    pub failed: u64,
}

impl FailureCounts {
    /// Whether so many failures are more than chance makes of a data set whose share of bad
    /// images is `max_share`: three standard deviations and one above the mean. So one bad
    /// image among the first few does not stop a run, and half of them being bad does.
    fn exceed(self, max_share: f64) -> bool {
        let expected = max_share * self.tried as f64;
        let chance = if max_share == 0.0 { 0.0 } else { 1.0 + 3.0 * expected.sqrt() };
        self.failed as f64 > expected + chance
    }
}

/// The counts of a data set in use, shared by its workers.
#[derive(Debug)]
pub(super) struct Failures {
    tried: AtomicU64,
    failed: AtomicU64,
    named: Mutex<HashSet<u64>>,
    /// What happens at the position of a bad image, for the warning.
    consequence: &'static str,
}

impl Failures {
    /// No failures yet; `consequence` is what warnings say about the position of a bad image.
    pub(super) fn new(consequence: &'static str) -> Self {
        let named = Mutex::default();
        Self { tried: AtomicU64::new(0), failed: AtomicU64::new(0), named, consequence }
    }

    pub(super) fn counts(&self) -> FailureCounts {
        let failed = self.failed.load(Ordering::Relaxed);
        FailureCounts { tried: self.tried.load(Ordering::Relaxed).max(failed), failed }
    }

    pub(super) fn record_success(&self) {
        self.tried.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failure of `sample`, whose place `name` tells.
    ///
    /// # Errors
    /// More images fail than `max_share` of them.
    pub(super) fn record(
        &self,
        sample: u64,
        error: &Error,
        max_share: f64,
        name: impl Fn() -> String,
    ) -> Result<()> {
        self.tried.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(1, Ordering::Relaxed);
        if self.named.lock().unwrap_or_else(PoisonError::into_inner).insert(sample) {
            tracing::warn!("{}: skipped, {}: {error:#}", name(), self.consequence);
        }
        let counts = self.counts();
        ensure!(
            !counts.exceed(max_share),
            "{} of {} images tried failed to decode ({:.1} %), more than data.max_failed_share \
             = {max_share} allows; the last was {}: {error:#}. `distill data check` lists them \
             all; repair or remove them, or raise data.max_failed_share",
            counts.failed,
            counts.tried,
            100.0 * counts.failed as f64 / counts.tried as f64,
            name()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_strict_in_the_long_run_and_lenient_at_the_start() {
        let exceed = |failed, tried, share| FailureCounts { tried, failed }.exceed(share);
        assert!(!exceed(1, 1, 0.01), "one bad image at the very start");
        assert!(!exceed(2, 100, 0.01));
        assert!(exceed(5, 10, 0.01), "half of the first ten");
        assert!(exceed(10_400, 1_000_000, 0.01), "1.04 % of a million");
        assert!(!exceed(9_900, 1_000_000, 0.01));
        assert!(exceed(1, 1_000_000, 0.0), "none allowed");
        assert!(!exceed(1_000, 1_000, 1.0), "all allowed");
    }
}
