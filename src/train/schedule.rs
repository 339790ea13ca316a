//! Learning rate and length of training.

use crate::config::{OptimizerConfig, ScheduleConfig};

/// Linear warm-up from zero, then half a cosine (Loshchilov & Hutter, 2017), set at every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    pub peak: f64,
    pub min: f64,
    pub warmup_epochs: f64,
    pub epochs: f64,
    /// Optimizer steps in an epoch; not whole where the recipe's iterations are accumulated.
    pub steps_per_epoch: f64,
}

impl Schedule {
    /// The schedule of a configuration, for `global_batch` images a step out of `samples`.
    pub fn new(
        optimizer: &OptimizerConfig,
        schedule: &ScheduleConfig,
        global_batch: usize,
        samples: u64,
    ) -> Self {
        let scaled = |base: f64| base * global_batch as f64 / 256.0;
        let one_pass = (samples / global_batch as u64).max(1);
        Self {
            peak: optimizer
                .learning_rate
                .or(optimizer.base_learning_rate.map(scaled))
                .unwrap_or(1e-3),
            min: optimizer.min_learning_rate,
            warmup_epochs: schedule.warmup_epochs,
            epochs: schedule.epochs,
            steps_per_epoch: schedule.steps_per_epoch.unwrap_or(one_pass) as f64,
        }
    }

    /// Optimizer steps of the whole training, at least one.
    pub fn total_steps(&self) -> u64 {
        ((self.epochs * self.steps_per_epoch).round() as u64).max(1)
    }

    /// Epochs done before step `step` (from 0).
    pub fn epoch(&self, step: u64) -> f64 {
        step as f64 / self.steps_per_epoch
    }

    /// Learning rate of step `step` (from 0).
    pub fn learning_rate(&self, step: u64) -> f64 {
        let epoch = self.epoch(step);
        if epoch < self.warmup_epochs {
            return self.peak * epoch / self.warmup_epochs;
        }
        let done = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs);
        let cosine = (std::f64::consts::PI * done.min(1.0)).cos();
        self.min + (self.peak - self.min) * 0.5 * (1.0 + cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: Schedule = Schedule {
        peak: 1e-3,
        min: 1e-5,
        warmup_epochs: 40.0,
        epochs: 400.0,
        steps_per_epoch: 1605.0,
    };

    #[test]
    fn rises_from_zero_and_falls_to_the_minimum() {
        assert_eq!(RECIPE.total_steps(), 642_000);
        assert_eq!(RECIPE.learning_rate(0), 0.0);
        assert!((RECIPE.learning_rate(20 * 1605) - 5e-4).abs() < 1e-12);
        assert!((RECIPE.learning_rate(40 * 1605) - 1e-3).abs() < 1e-12);
        assert!((RECIPE.learning_rate(220 * 1605) - (1e-3 + 1e-5) / 2.0).abs() < 1e-12);
        assert!((RECIPE.learning_rate(642_000) - 1e-5).abs() < 1e-12);
    }

    #[test]
    fn a_base_rate_scales_with_the_global_batch() {
        let optimizer =
            OptimizerConfig { base_learning_rate: Some(1e-4), ..OptimizerConfig::default() };
        let config = ScheduleConfig { epochs: 2.0, warmup_epochs: 0.0, steps_per_epoch: None };
        let schedule = Schedule::new(&optimizer, &config, 512, 5_200);
        assert!((schedule.peak - 2e-4).abs() < 1e-15);
        assert_eq!(schedule.total_steps(), 20, "two passes of ten whole global batches");
    }

    #[test]
    fn warm_up_may_be_the_whole_of_it() {
        let schedule = Schedule { warmup_epochs: 400.0, ..RECIPE };
        assert!(schedule.learning_rate(641_999).is_finite());
    }
}
