//! Which positions of the stream each process takes.

use std::ops::Range;

/// The batches of one process, as ranges of the global stream of samples.
///
/// Every optimizer step takes the next `global_batch` positions. Each process takes one
/// consecutive share of them, larger than another's by at most one sample, and cuts it into
/// batches. So all processes together go through the same stream, however many they are.
#[derive(Debug, Clone)]
pub struct RankBatches {
    /// Positions of the whole run that are still to be trained on; whole steps.
    pub positions: Range<u64>,
    /// Samples of a step over all processes.
    pub global_batch: u64,
    /// Most samples of one batch.
    pub batch: u64,
    /// This process, in `0..world_size`.
    pub rank: u64,
    /// Number of processes.
    pub world_size: u64,
}

impl RankBatches {
    /// Batches of this process in every step.
    ///
    /// # Panics
    /// If the batch size is 0.
    pub fn per_step(&self) -> u64 {
        let share = |rank: u64| self.global_batch * rank / self.world_size;
        (share(self.rank + 1) - share(self.rank)).div_ceil(self.batch)
    }

    /// The batches, in order.
    ///
    /// # Panics
    /// If a batch size is 0.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> + Send + use<> {
        let Self { positions, global_batch, batch, rank, world_size } = self.clone();
        let share = move |rank: u64| global_batch * rank / world_size;
        let (first, end) = (share(rank), share(rank + 1));
        positions.step_by(global_batch as usize).flat_map(move |step| {
            let starts = (first..end).step_by(batch as usize);
            starts.map(move |start| step + start..step + end.min(start + batch))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::ShuffleConfig;
    use crate::dataset::order::Order;

    proptest! {
        /// Put together step by step, what 1, 2, 3 and 8 processes see is one stream of samples,
        /// from wherever a run is continued.
        #[test]
        fn any_number_of_processes_goes_through_the_same_stream(
            seed: u64, samples in 1u64..5_000, begun in 0u64..100, global_batch in 8u64..100,
            batch in 1u64..20, chunk_samples in 1u64..50
        ) {
            let shuffle = ShuffleConfig { chunk_samples, window_chunks: 4, lanes: 1, lane_run: 1 };
            let order = Order::new(seed, samples, &shuffle);
            let positions = begun * global_batch..(begun + 3) * global_batch;
            let expected: Vec<u64> = positions.clone().map(|p| order.sample_at(p)).collect();
            for world_size in [1, 2, 3, 8] {
                let mut seen = Vec::new();
                for rank in 0..world_size {
                    let batches = RankBatches {
                        positions: positions.clone(), global_batch, batch, rank, world_size
                    };
                    let count = batches.ranges().count() as u64;
                    prop_assert_eq!(count, 3 * batches.per_step());
                    for range in batches.ranges() {
                        prop_assert!(!range.is_empty() && range.end - range.start <= batch);
                        seen.extend(range.map(|position| (position, order.sample_at(position))));
                    }
                }
                seen.sort_unstable();
                let (places, found): (Vec<u64>, Vec<u64>) = seen.into_iter().unzip();
                prop_assert_eq!(places, positions.clone().collect::<Vec<_>>());
                prop_assert_eq!(&found, &expected);
            }
        }
    }
}
