//! Which sample stands at a position of the endless stream of samples.

use crate::draws::{Draws, Purpose};

const ROUNDS: usize = 8;

/// A new shuffle of all samples for each pass over them, looked up at any position in constant
/// time and memory.
///
/// Position `p` belongs to pass `p / samples`. The pass's shuffle is a keyed permutation of
/// `0..samples`: a Feistel network over the least even number of bits that holds them, applied
/// again while its result lies outside (cycle walking; Black and Rogaway, "Ciphers with Arbitrary
/// Finite Domains", 2002). Nothing is stored and nothing before `p` is visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    seed: u64,
    samples: u64,
}

impl Order {
    /// The order of a data set of `samples` samples under `seed`.
    ///
    /// # Panics
    /// If `samples` is 0.
    pub fn new(seed: u64, samples: u64) -> Self {
        assert!(samples > 0, "an empty data set has no order");
        Self { seed, samples }
    }

    /// Number of samples in a pass.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// The sample at `position`, in `0..samples`.
    pub fn sample_at(&self, position: u64) -> u64 {
        let mut draws = Draws::new(self.seed, Purpose::Order, 0, position / self.samples);
        let keys: [u64; ROUNDS] = std::array::from_fn(|_| draws.bits());
        let half_bits = (u64::BITS - (self.samples - 1).leading_zeros()).div_ceil(2).max(1);
        let mut place = position % self.samples;
        loop {
            place = feistel(place, half_bits, &keys);
            if place < self.samples {
                return place;
            }
        }
    }
}

/// A permutation of the numbers of `2 * half_bits` bits.
fn feistel(number: u64, half_bits: u32, keys: &[u64; ROUNDS]) -> u64 {
    let mask = (1u64 << half_bits) - 1;
    let (mut left, mut right) = (number >> half_bits, number & mask);
    for &key in keys {
        (left, right) = (right, left ^ (mix(right ^ key) & mask));
    }
    left << half_bits | right
}

/// SplitMix64's finaliser: every bit of the result depends on every bit of `bits`.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The samples that a position tries in turn until one is accepted and decodes: first its own in
/// the order, then samples drawn uniformly.
pub struct Candidates {
    draws: Draws,
    samples: u64,
    next: u64,
}

impl Candidates {
    /// The candidates of `position`, keyed by the order's seed.
    pub fn new(order: &Order, position: u64) -> Self {
        Self {
            draws: Draws::new(order.seed, Purpose::Sample, 0, position),
            samples: order.samples,
            next: order.sample_at(position),
        }
    }

    /// The next candidate that is accepted, each with its probability `acceptance`; without
    /// probabilities, the next candidate. The probabilities must not all be (near) zero.
    pub fn next_accepted(&mut self, acceptance: Option<impl Fn(u64) -> f32>) -> u64 {
        loop {
            let candidate = self.next;
            let accepted = acceptance.as_ref().is_none_or(|probability| {
                self.draws.uniform() <= f64::from(probability(candidate))
            });
            self.next = self.draws.below(self.samples);
            if accepted {
                return candidate;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pass(order: Order, pass: u64) -> Vec<u64> {
        let samples = order.samples();
        (0..samples).map(|place| order.sample_at(pass * samples + place)).collect()
    }

    proptest! {
        #[test]
        fn each_sample_comes_once_a_pass(seed: u64, samples in 1u64..3000, number in 0u64..1 << 40) {
            let mut seen = pass(Order::new(seed, samples), number);
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..samples).collect::<Vec<_>>());
        }

        #[test]
        fn passes_and_seeds_differ(seed: u64, samples in 50u64..500, number in 0u64..1 << 40) {
            let order = Order::new(seed, samples);
            prop_assert_ne!(pass(order, number), pass(order, number + 1));
            prop_assert_ne!(pass(order, number), pass(Order::new(seed ^ 1, samples), number));
        }

        #[test]
        fn far_positions_are_in_range(seed: u64, samples in 1u64.., position: u64) {
            prop_assert!(Order::new(seed, samples).sample_at(position) < samples);
        }
    }

    #[test]
    fn position_1e15_is_as_near_as_position_0() {
        let order = Order::new(3, 2_000_000_000);
        let start = std::time::Instant::now();
        let distinct: std::collections::HashSet<u64> =
            (0..10_000).map(|step| order.sample_at(1_000_000_000_000_000 + step)).collect();
        assert!(distinct.len() >= 9_999, "a pass may end in between, no more");
        assert!(start.elapsed().as_secs_f64() < 1.0, "10,000 look-ups took {:?}", start.elapsed());
    }

    #[test]
    fn the_shuffle_mixes_the_whole_data_set() {
        // 100 shards of 100 samples; neighbours in the stream should seldom share a shard, and a
        // batch of 100 should come from about 100 * (1 - (1 - 1/100)^100) = 63 shards.
        let stream = pass(Order::new(0, 10_000), 0);
        let same_shard = stream.windows(2).filter(|pair| pair[0] / 100 == pair[1] / 100).count();
        assert!((60..150).contains(&same_shard), "{same_shard} neighbours share a shard");
        for batch in stream.chunks(100) {
            let shards: std::collections::HashSet<u64> = batch.iter().map(|s| s / 100).collect();
            assert!((45..80).contains(&shards.len()), "{} shards in a batch", shards.len());
        }
    }

    #[test]
    fn small_permutations_are_all_about_as_likely() {
        let mut counts = std::collections::HashMap::new();
        for number in 0..24_000 {
            *counts.entry(pass(Order::new(0, 4), number)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_order_never_changes() {
        // Runs that were started by an older version must resume in the same order.
        let found: Vec<u64> = (0..4).map(|p| Order::new(7, 1_281_167).sample_at(p)).collect();
        assert_eq!(found, [1_200_655, 517_918, 430_646, 394_266]);
    }
}
