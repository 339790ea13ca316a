//! Which sample stands at a position of the endless stream of samples.
//!
//! Samples are numbered through all shards. A pass over them is a shuffle on two levels, so that
//! shards are read in long runs and not an image here and there:
//!
//! 1. The samples are cut into *chunks* of neighbours, at another place in each pass, and the
//!    chunks are shuffled over the whole data set.
//! 2. A fixed number of consecutive chunks of that shuffle makes a *window*. Within a window all
//!    samples are shuffled. Only its chunks are being read at a time.
//!
//! For evaluation there is an order without a shuffle: samples as they lie.
//!
//! With several *lanes* the stream takes short runs from as many windows in turn: a node that
//! takes every run of one lane reads its chunks whole, and no other node reads them.
//!
//! Both shuffles are keyed permutations of whole numbers (a Feistel network over the least even
//! number of bits that holds them, applied again while the result lies outside: cycle walking;
//! Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Nothing is stored, and
//! nothing before a position is visited to find what stands there.

use std::ops::Range;

use crate::config::ShuffleConfig;
use distill_base::draws::{Draws, Purpose};

const ROUNDS: usize = 8;

/// Lanes of [`Purpose::Order`] draws: one for the chunks, one more for each window.
const CHUNK_DRAWS: u64 = 0;
const FIRST_WINDOW_DRAWS: u64 = 1;

/// A new shuffle of all samples for each pass over them, looked up at any position in constant
/// time and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    seed: u64,
    samples: u64,
    /// Samples in a chunk.
    chunk: u64,
    /// Chunks in a window.
    window_chunks: u64,
    lanes: u64,
    /// Consecutive samples that one lane gives.
    run: u64,
    /// Where samples are not shuffled: of how many those of a pass are an even spread.
    spread_over: Option<u64>,
}

/// A window of a pass: the samples among which those at its positions are shuffled.
#[derive(Debug, Clone)]
pub struct Window {
    order: Order,
    pass: u64,
    number: u64,
    /// Place of the window's first sample in the shuffle of chunks.
    begin: u64,
    size: u64,
    first_sample: u64,
    chunks: Permutation,
}

impl Order {
    /// The order of a data set of `samples` samples under `seed`.
    ///
    /// # Panics
    /// If `samples` or a number in `shuffle` is 0, or the lanes' runs do not divide a window;
    /// [`ShuffleConfig::check`] finds the latter.
    pub fn new(seed: u64, samples: u64, shuffle: &ShuffleConfig) -> Self {
        assert!(samples > 0, "an empty data set has no order");
        assert_eq!(shuffle.check(), Ok(()));
        let ShuffleConfig { chunk_samples, window_chunks, lanes, lane_run } = *shuffle;
        let (chunk, run) = (chunk_samples, lane_run);
        Self { seed, samples, chunk, window_chunks, lanes, run, spread_over: None }
    }

    /// `samples` samples one after another, as they lie; of more than `most`, so many at even
    /// distances.
    ///
    /// # Panics
    /// If a number is 0.
    pub fn in_sequence(samples: u64, most: u64) -> Self {
        let order = Self::new(0, samples.min(most), &ShuffleConfig::default());
        Self { spread_over: Some(samples), ..order }
    }

    /// Number of samples in a pass.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// The sample at `position`, in `0..samples`.
    pub fn sample_at(&self, position: u64) -> u64 {
        let (window, place) = self.locate(position);
        self.window(position / self.samples, window).shuffled(place)
    }

    /// The window that `position` lies in, as a number that grows along the stream.
    pub fn window_at(&self, position: u64) -> Window {
        self.window(position / self.samples, self.locate(position).0)
    }

    /// Positions in which each lane gives a whole window.
    pub fn turn(&self) -> u64 {
        self.full() * self.lanes
    }

    /// Samples of a full window.
    fn full(&self) -> u64 {
        self.chunk * self.window_chunks
    }

    /// Windows in a pass; the last one also has what does not fill another.
    fn windows(&self) -> u64 {
        (self.samples / self.full()).max(1)
    }

    /// Number of the window of its pass that `position` lies in, and its place in there.
    fn locate(&self, position: u64) -> (u64, u64) {
        let place = position % self.samples;
        let full = self.full();
        let together = self.turn();
        // The last window is larger, so it is not among the windows that take turns.
        let group = place / together;
        if (group + 1) * self.lanes < self.windows() {
            let within = place % together;
            let (run, offset) = (within / self.run, within % self.run);
            let window = group * self.lanes + run % self.lanes;
            return (window, run / self.lanes * self.run + offset);
        }
        let window = (place / full).min(self.windows() - 1);
        (window, place - window * full)
    }

    fn window(&self, pass: u64, number: u64) -> Window {
        let mut draws = Draws::new(self.seed, Purpose::Order, CHUNK_DRAWS, pass);
        let begin = number * self.full();
        let last = number + 1 == self.windows();
        Window {
            order: *self,
            pass,
            number,
            begin,
            size: if last { self.samples - begin } else { self.full() },
            first_sample: draws.below(self.samples),
            chunks: Permutation::draw((self.samples / self.chunk).max(1), &mut draws),
        }
    }
}

impl Window {
    /// Tells windows apart: pass and number within the pass.
    pub fn id(&self) -> (u64, u64) {
        (self.pass, self.number)
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.size
    }

    /// The sample at `place` of the window's own shuffle.
    fn shuffled(&self, place: u64) -> u64 {
        if self.order.spread_over.is_some() {
            return self.unshuffled(place);
        }
        let rng_stream = FIRST_WINDOW_DRAWS + self.number;
        let mut draws = Draws::new(self.order.seed, Purpose::Order, rng_stream, self.pass);
        self.unshuffled(Permutation::draw(self.size, &mut draws).apply(place))
    }

    /// The sample at `place` of the window before its samples are shuffled: chunk after chunk.
    pub fn unshuffled(&self, place: u64) -> u64 {
        let Order { samples, chunk, spread_over, .. } = self.order;
        let place = self.begin + place;
        if let Some(total) = spread_over {
            return (u128::from(place) * u128::from(total) / u128::from(samples)) as u64;
        }
        let whole_chunks = samples / chunk;
        let offset = match place / chunk {
            slot if slot < whole_chunks => self.chunks.apply(slot) * chunk + place % chunk,
            _ => place, // the few samples that fill no chunk
        };
        (self.first_sample + offset) % samples
    }

    /// The window's samples as ranges of neighbours, in the order of their chunks.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> {
        let Order { samples, chunk, spread_over, .. } = self.order;
        let all = spread_over.unwrap_or(samples);
        // Those of a spread have no neighbours.
        let chunk = if all > samples { 1 } else { chunk };
        let chunks = (0..self.size).step_by(chunk as usize);
        chunks.flat_map(move |place| {
            let length = chunk.min(self.size - place);
            let start = self.unshuffled(place);
            let end = start + length;
            // A chunk may begin near the last sample and go on at the first.
            [start..end.min(all), 0..end.saturating_sub(all)]
                .into_iter()
                .filter(|run| !run.is_empty())
        })
    }
}

/// A keyed permutation of `0..count`.
#[derive(Debug, Clone)]
struct Permutation {
    count: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    fn draw(count: u64, draws: &mut Draws) -> Self {
        let half_bits = (u64::BITS - (count - 1).leading_zeros()).div_ceil(2).max(1);
        Self { count, half_bits, keys: std::array::from_fn(|_| draws.bits()) }
    }

    fn apply(&self, mut number: u64) -> u64 {
        loop {
            number = feistel(number, self.half_bits, &self.keys);
            if number < self.count {
                return number;
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
/// the order, then samples drawn uniformly from the same window, which is being read anyway.
pub struct Candidates {
    draws: Draws,
    window: Window,
    next: u64,
}

impl Candidates {
    /// The candidates of `position`, keyed by the order's seed.
    pub fn new(order: &Order, position: u64) -> Self {
        Self {
            draws: Draws::new(order.seed, Purpose::Sample, 0, position),
            window: order.window_at(position),
            next: order.sample_at(position),
        }
    }

    /// The next candidate that is accepted, each with its probability `acceptance`; without
    /// probabilities, the next candidate. `None` after `tries` rejections.
    pub fn next_accepted<E>(
        &mut self,
        tries: usize,
        acceptance: Option<impl Fn(u64) -> Result<f32, E>>,
    ) -> Result<Option<u64>, E> {
        for _ in 0..tries {
            let candidate = self.next;
            let accepted = match &acceptance {
                None => true,
                Some(acceptance) => self.draws.uniform() <= f64::from(acceptance(candidate)?),
            };
            self.next = self.window.unshuffled(self.draws.below(self.window.samples()));
            if accepted {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    impl Window {
        /// The next window of the stream.
        fn next(&self) -> Self {
            if self.number + 1 < self.order.windows() {
                self.order.window(self.pass, self.number + 1)
            } else {
                self.order.window(self.pass + 1, 0)
            }
        }
    }

    fn shuffle(chunk_samples: u64, window_chunks: u64, lanes: u64, lane_run: u64) -> ShuffleConfig {
        ShuffleConfig { chunk_samples, window_chunks, lanes, lane_run }
    }

    fn pass(order: Order, pass: u64) -> Vec<u64> {
        let samples = order.samples();
        (0..samples).map(|place| order.sample_at(pass * samples + place)).collect()
    }

    /// Shuffles whose runs divide a window.
    fn shuffles() -> impl Strategy<Value = ShuffleConfig> {
        (1u64..9, 1u64..9, 1u64..6, 1u64..5)
            .prop_map(|(runs, window, lanes, run)| shuffle(runs * run, window, lanes, run))
    }

    proptest! {
        #[test]
        fn each_sample_comes_once_a_pass(
            seed: u64, samples in 1u64..3000, number in 0u64..1 << 40, shuffle in shuffles()
        ) {
            let mut seen = pass(Order::new(seed, samples, &shuffle), number);
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..samples).collect::<Vec<_>>());
        }

        #[test]
        fn passes_and_seeds_differ(
            seed: u64, samples in 50u64..500, number in 0u64..1 << 40, shuffle in shuffles()
        ) {
            let order = Order::new(seed, samples, &shuffle);
            prop_assert_ne!(pass(order, number), pass(order, number + 1));
            prop_assert_ne!(pass(order, number), pass(Order::new(seed ^ 1, samples, &shuffle), number));
        }

        #[test]
        fn far_positions_are_in_range(
            seed: u64, samples in 1u64.., position: u64, shuffle in shuffles()
        ) {
            let order = Order::new(seed, samples.min(1 << 62), &shuffle);
            prop_assert!(order.sample_at(position) < order.samples());
        }

        /// What is read ahead is what is then asked for: a window's runs are its samples.
        #[test]
        fn a_windows_runs_are_what_its_positions_give(
            seed: u64, samples in 1u64..2000, number in 0u64..1 << 40, shuffle in shuffles()
        ) {
            let order = Order::new(seed, samples, &shuffle);
            let mut window = order.window_at(number * samples);
            let mut given = std::collections::HashMap::<_, Vec<u64>>::new();
            for position in number * samples..(number + 1) * samples {
                let id = order.window_at(position).id();
                given.entry(id).or_default().push(order.sample_at(position));
            }
            for _ in 0..given.len() {
                let mut expected: Vec<u64> = window.runs().flatten().collect();
                prop_assert_eq!(expected.len() as u64, window.samples());
                let found = given.get_mut(&window.id()).expect("windows follow each other");
                found.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(found, &mut expected);
                window = window.next();
            }
            prop_assert_eq!(window.id(), (number + 1, 0));
        }
    }

    #[test]
    fn position_1e15_is_as_near_as_position_0() {
        let order = Order::new(3, 2_000_000_000, &ShuffleConfig::default());
        let start = std::time::Instant::now();
        let distinct: HashSet<u64> =
            (0..10_000).map(|step| order.sample_at(1_000_000_000_000_000 + step)).collect();
        assert!(distinct.len() >= 9_999, "a pass may end in between, no more");
        assert!(start.elapsed().as_secs_f64() < 1.0, "10,000 look-ups took {:?}", start.elapsed());
    }

    #[test]
    fn a_small_data_set_is_shuffled_as_a_whole() {
        // 100 shards of 100 samples; neighbours in the stream should seldom share a shard, and a
        // batch of 100 should come from about 100 * (1 - (1 - 1/100)^100) = 63 shards.
        let stream = pass(Order::new(0, 10_000, &ShuffleConfig::default()), 0);
        let same_shard = stream.windows(2).filter(|pair| pair[0] / 100 == pair[1] / 100).count();
        assert!((60..150).contains(&same_shard), "{same_shard} neighbours share a shard");
        for batch in stream.chunks(100) {
            let shards: HashSet<u64> = batch.iter().map(|s| s / 100).collect();
            assert!((45..80).contains(&shards.len()), "{} shards in a batch", shards.len());
        }
    }

    #[test]
    fn a_large_data_set_is_read_chunk_by_chunk() {
        let shuffle = shuffle(100, 20, 1, 1);
        let order = Order::new(1, 1_000_000, &shuffle);
        let window: Vec<u64> = (0..2000).map(|position| order.sample_at(position)).collect();
        // From the start of a chunk on, its hundred samples and no other of its neighbourhood.
        let mut sorted = window.clone();
        sorted.sort_unstable();
        let chunks = 1 + sorted.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
        assert!(chunks <= 20, "a window reads {chunks} chunks");
        let span = sorted[1999] - sorted[0];
        assert!(span > 500_000, "its chunks come from all over the data set, not {span} samples");
        let neighbours = window.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 100).count();
        assert!(neighbours < 300, "{neighbours} of 2,000 pairs are from one chunk");
    }

    #[test]
    fn lanes_read_chunks_of_their_own() {
        // Four nodes that take 8 samples each, in turn.
        let shuffle = shuffle(64, 4, 4, 8);
        let order = Order::new(1, 100_000, &shuffle);
        let mut windows = vec![HashSet::new(); 4];
        for position in 0..4 * 256 {
            windows[position as usize / 8 % 4].insert(order.window_at(position).id());
        }
        assert_eq!(windows.iter().map(HashSet::len).collect::<Vec<_>>(), [1; 4]);
        assert_eq!(windows.iter().flatten().collect::<HashSet<_>>().len(), 4);
    }

    #[test]
    fn a_sequence_takes_every_sample_in_order() {
        assert_eq!(pass(Order::in_sequence(1000, u64::MAX), 0), (0..1000).collect::<Vec<_>>());
        assert_eq!(pass(Order::in_sequence(10, 4), 0), [0, 2, 5, 7]);
        let large = Order::in_sequence(1 << 62, 1 << 61);
        assert_eq!(large.sample_at((1 << 61) - 1), (1 << 62) - 2);
    }

    /// What is read ahead of a sequence is what it takes, in its order.
    #[test]
    fn a_sequences_windows_follow_each_other() {
        for (samples, most) in [(100_000, u64::MAX), (1_000_000, 70_000)] {
            let order = Order::in_sequence(samples, most);
            let mut window = order.window_at(0);
            let mut ahead = Vec::new();
            while window.id().0 == 0 {
                ahead.extend(window.runs().flatten());
                window = window.next();
            }
            assert_eq!(ahead, pass(order, 0));
        }
    }

    #[test]
    fn small_permutations_are_all_about_as_likely() {
        let mut counts = std::collections::HashMap::new();
        for number in 0..24_000 {
            let order = Order::new(0, 4, &ShuffleConfig::default());
            *counts.entry(pass(order, number)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_order_never_changes() {
        // Runs that were started by an older version must resume in the same order.
        let order = Order::new(7, 1_281_167, &ShuffleConfig::default());
        let found: Vec<u64> = [0, 1, 40_000, 1_281_166].map(|p| order.sample_at(p)).to_vec();
        assert_eq!(found, [544_659, 687_920, 1_041_330, 342_647]);
    }
}
