//! How many updates a training of heads has, and which images each rank sees in one.

use std::ops::Range;

use super::config::{HeadConfig, HeadTraining};
use crate::eval::dense::HeadSchedule;

/// The numbers of a training.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Pairs of the training split.
    pub pairs: u64,
    pub updates_per_epoch: u64,
    pub updates: u64,
    /// Losses of an update, of all ranks.
    pub losses: u64,
    pub images_per_loss: u64,
}

impl Plan {
    /// Updates of an epoch are ⌊⌈pairs / losses⌉ / images of a loss⌋, as if each loss were a GPU's.
    pub fn new(training: &HeadTraining, pairs: u64) -> Self {
        let images_per_loss = training.images_per_loss as u64;
        let losses = training.global_batch_size as u64 / images_per_loss;
        let updates_per_epoch = (pairs.div_ceil(losses) / images_per_loss).max(1);
        let updates = updates_per_epoch * training.epochs;
        Self { pairs, updates_per_epoch, updates, losses, images_per_loss }
    }

    /// The positions of the stream that this rank sees in an update: each epoch begins a pass.
    pub fn range(&self, update: u64, rank: u64, world_size: u64) -> Range<u64> {
        let (epoch, in_epoch) = (update / self.updates_per_epoch, update % self.updates_per_epoch);
        let first = epoch * self.pairs + in_epoch * self.losses * self.images_per_loss;
        let share = |rank: u64| self.losses * rank / world_size * self.images_per_loss;
        first + share(rank)..first + share(rank + 1)
    }

    /// How the rate of a head goes.
    pub fn schedule(&self, training: &HeadTraining, head: &HeadConfig) -> HeadSchedule {
        HeadSchedule {
            base: head.learning_rate,
            updates: self.updates,
            warmup: (training.warmup * self.updates as f64).floor() as u64,
            power: training.power,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Updates an epoch of the release's data sets, and ranks that divide what one would see.
    #[test]
    fn updates_and_shares_are_the_releases() {
        let training = |global_batch_size, images_per_loss| HeadTraining {
            epochs: 60,
            global_batch_size,
            images_per_loss,
            crop_size: 256,
            warmup: 0.1,
            power: 0.9,
            weight_decay: 0.01,
            betas: [0.9, 0.999],
            eps: 1e-8,
            workers: 0,
        };
        for (batch, per_loss, pairs, updates) in [
            (32, 4, 24_231, 757),
            (32, 4, 23_158, 723),
            (16, 2, 20_210, 1263),
            (32, 4, 10_582, 330),
            (8, 1, 2_522, 316),
        ] {
            let plan = Plan::new(&training(batch, per_loss), pairs);
            assert_eq!(plan.updates_per_epoch, updates, "{pairs} pairs");
            assert_eq!(plan.range(updates, 0, 1).start, pairs, "an epoch begins a pass");
            for ranks in [2, 3, 4] {
                let ranges: Vec<_> = (0..ranks).map(|rank| plan.range(5, rank, ranks)).collect();
                let whole = plan.range(5, 0, 1);
                assert_eq!(
                    (ranges[0].start, ranges[ranks as usize - 1].end),
                    (whole.start, whole.end)
                );
                assert!(ranges.windows(2).all(|two| two[0].end == two[1].start));
            }
        }
    }
}
