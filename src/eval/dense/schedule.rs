//! The learning rate of a head.

/// Linear warm-up, then polynomial decay to 0; as in the release the rate is set after an update, so
/// that update 0 runs at the full rate and update i at what is due for i − 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadSchedule {
    pub base: f64,
    /// Updates in all, T.
    pub updates: u64,
    /// Updates of warm-up, W.
    pub warmup: u64,
    /// Exponent of the decay.
    pub power: f64,
}

impl HeadSchedule {
    /// The rate that update `update` (from 0) uses.
    pub fn rate(&self, update: u64) -> f64 {
        match update.checked_sub(1) {
            None => self.base,
            Some(due) => self.due(due),
        }
    }

    /// `base·i/W` below W, else `base·(1 − (i − W)/(T − W))^power`.
    fn due(&self, i: u64) -> f64 {
        let Self { base, updates, warmup, power } = *self;
        if i < warmup {
            return base * i as f64 / warmup as f64;
        }
        let left = 1.0 - (i - warmup) as f64 / (updates - warmup).max(1) as f64;
        base * left.max(0.0).powf(power)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first updates are those that are easy to get wrong.
    #[test]
    fn the_first_update_is_at_full_rate_and_the_second_at_none() {
        let schedule = HeadSchedule { base: 2e-4, updates: 100, warmup: 10, power: 0.9 };
        assert_eq!([0, 1, 2].map(|i| schedule.rate(i)), [2e-4, 0.0, 2e-5]);
        assert_eq!(schedule.rate(11), 2e-4);
        let without = HeadSchedule { warmup: 0, ..schedule };
        assert_eq!([0, 1].map(|i| without.rate(i)), [2e-4; 2]);
        assert!((without.rate(99) - 2e-4 * 0.02f64.powf(0.9)).abs() < 1e-18);
    }
}
