//! Random draws that depend on a key alone: (seed, purpose, position).
//!
//! No generator is shared or carried along, so a draw is the same whichever rank, worker or
//! restart makes it, and nothing about randomness has to be saved to resume exactly. ChaCha8 is
//! a counter-based cipher whose stream `rand_chacha` promises never to change: the key holds seed
//! and purpose, the stream number holds the position.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What draws are for. Draws of different purposes are independent. The numbers are part of a
/// run's identity: never reuse or renumber one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// Initial weights; position is the student's place in the config.
    Weights = 1,
    /// Order of samples; position is the pass over the data set.
    Order = 2,
    /// Crop of the image at a position of the stream.
    Crop = 3,
    /// Acceptance and replacement of the sample at a position of the stream.
    Sample = 4,
    /// Mask of a student for the image at a position of the stream.
    Mask = 5,
    /// Drop path of a student for the image at a position of the stream.
    DropPath = 6,
    /// Which patches of the image at a position of an evaluation's pass are kept.
    Bank = 7,
    /// What a drawn scene has in it; position is its number.
    Scene = 8,
}

/// A stream of draws under one key.
pub struct Draws(ChaCha8Rng);

impl Draws {
    /// Draws for `purpose` at `position`; `rng_stream` tells apart several users of one purpose, such
    /// as the students that each draw a mask.
    pub fn new(seed: u64, purpose: Purpose, rng_stream: u64, position: u64) -> Self {
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
        key[16..24].copy_from_slice(&rng_stream.to_le_bytes());
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(position);
        Self(generator)
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `[0, 1)`, uniform over multiples of 2⁻⁵³.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A whole number in `[0, end)`, without the bias of a plain remainder (Lemire's method).
    ///
    /// # Panics
    /// If `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "an empty range has no number to draw");
        let threshold = end.wrapping_neg() % end;
        loop {
            let wide = u128::from(self.bits()) * u128::from(end);
            if wide as u64 >= threshold {
                return (wide >> 64) as u64;
            }
        }
    }

    /// The first `count` items of a random permutation of `0..total`.
    pub fn choose(&mut self, total: usize, count: usize) -> Vec<usize> {
        let mut items: Vec<usize> = (0..total).collect();
        for place in 0..count.min(total) {
            let other = place + self.below((total - place) as u64) as usize;
            items.swap(place, other);
        }
        items.truncate(count);
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_never_changes() {
        // Runs that were started by an older version must resume on the same draws.
        let mut draws = Draws::new(7, Purpose::Crop, 0, 1 << 40);
        let found: Vec<u64> = (0..3).map(|_| draws.bits()).collect();
        assert_eq!(found, [12053240163393507811, 7541442311345428606, 7193945387014466869]);
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let first = |seed, purpose, rng_stream, position| {
            Draws::new(seed, purpose, rng_stream, position).bits()
        };
        let base = first(1, Purpose::Mask, 2, 3);
        assert_eq!(base, first(1, Purpose::Mask, 2, 3));
        for other in [
            first(2, Purpose::Mask, 2, 3),
            first(1, Purpose::Crop, 2, 3),
            first(1, Purpose::Mask, 3, 3),
            first(1, Purpose::Mask, 2, 4),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn below_is_uniform() {
        let mut counts = [0u32; 7];
        for position in 0..70_000 {
            counts[Draws::new(0, Purpose::Sample, 0, position).below(7) as usize] += 1;
        }
        for count in counts {
            assert!((9_500..10_500).contains(&count), "{counts:?}");
        }
    }

    #[test]
    fn choose_gives_distinct_items() {
        let mut chosen = Draws::new(0, Purpose::Mask, 0, 0).choose(16, 8);
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen.len(), 8);
        assert!(chosen.iter().all(|&item| item < 16));
    }
}
