//! The catalogue: shard and row of every sample, for any number of shards in bounded memory.
//!
//! Of every shard only its name and the number of its kept images stay in memory. Their places
//! in the shard are read when they are needed, and the most recently used are kept.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::format::FieldColumn;
use crate::labels::NO_LABEL;

/// Memory for the rows of shards that are in use, in bytes. At 16 to 20 bytes an image this
/// holds some twenty million of them: all of most data sets, and the windows of any.
const ROWS_IN_MEMORY: u64 = 384 << 20;

/// The kept images of a shard, one row each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ShardRows {
    /// Where each image's bytes begin in the shard.
    pub offsets: Vec<u64>,
    /// How many bytes each image has.
    pub sizes: Vec<u32>,
    /// Empty where no sample of the shard has a label.
    pub labels: Vec<u32>,
    /// Where the fields beside image and label lie.
    pub fields: Vec<FieldColumn>,
    /// Probability of acceptance when drawn; empty where every draw is accepted.
    pub acceptance: Vec<f32>,
}

impl ShardRows {
    /// Class of the image in `row`, where it has one.
    pub fn label(&self, row: usize) -> Option<u32> {
        self.labels.get(row).copied().filter(|&label| label != NO_LABEL)
    }

    /// Probability with which the image in `row` is accepted when drawn.
    pub fn acceptance(&self, row: usize) -> f32 {
        self.acceptance.get(row).copied().unwrap_or(1.0)
    }

    /// The bytes of the shard that the rows of `rows` lie in, with all their fields.
    pub fn extent(&self, rows: Range<usize>) -> Range<u64> {
        let image = |row: usize| self.offsets[row]..self.offsets[row] + u64::from(self.sizes[row]);
        let last = rows.end - 1;
        let mut extent = self.offsets[rows.start]..image(last).end;
        for field in &self.fields {
            for range in
                [rows.start, last].map(|row| field.range(row)).into_iter().filter(|r| !r.is_empty())
            {
                extent = extent.start.min(range.start)..extent.end.max(range.end);
            }
        }
        extent
    }

    fn bytes(&self) -> u64 {
        let Self { offsets, sizes, labels, fields, acceptance } = self;
        let eights = offsets.len() + fields.iter().map(|field| field.offsets.len()).sum::<usize>();
        let fours = sizes.len() + fields.iter().map(|field| field.sizes.len()).sum::<usize>();
        (eights * 8 + (fours + labels.len() + acceptance.len()) * 4) as u64
    }
}

/// Reads the rows of a shard, given its number.
type ReadRows = Box<dyn Fn(usize) -> Result<ShardRows> + Send + Sync>;

/// The samples of a data set, numbered through its shards.
pub struct Catalogue {
    /// Number of the first sample of each shard, and at the end the number of all.
    firsts: Vec<u64>,
    read: ReadRows,
    rows: Cache<usize, Arc<ShardRows>, RowBytes>,
}

/// A sample's shard and the shard's rows.
pub struct Entry {
    pub shard: usize,
    pub row: usize,
    pub rows: Arc<ShardRows>,
}

#[derive(Clone)]
struct RowBytes;

impl Weighter<usize, Arc<ShardRows>> for RowBytes {
    fn weight(&self, _: &usize, rows: &Arc<ShardRows>) -> u64 {
        rows.bytes().max(1)
    }
}

impl Catalogue {
    /// A catalogue of shards with `counts` images each, whose rows `read` gives.
    pub fn new(
        counts: impl IntoIterator<Item = u64>,
        read: impl Fn(usize) -> Result<ShardRows> + Send + Sync + 'static,
    ) -> Self {
        let mut firsts = vec![0];
        for count in counts {
            firsts.push(firsts[firsts.len() - 1] + count);
        }
        let rows = Cache::with_weighter(firsts.len(), ROWS_IN_MEMORY, RowBytes);
        Self { firsts, read: Box::new(read), rows }
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.firsts[self.firsts.len() - 1]
    }

    /// Shard and row of a sample. Nothing is read for this.
    ///
    /// # Panics
    /// If there is no such sample.
    pub fn place(&self, sample: u64) -> (usize, usize) {
        assert!(sample < self.samples(), "sample {sample} of {}", self.samples());
        let shard = self.firsts.partition_point(|&first| first <= sample) - 1;
        (shard, (sample - self.firsts[shard]) as usize)
    }

    /// The samples of a shard.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn samples_of(&self, shard: usize) -> Range<u64> {
        self.firsts[shard]..self.firsts[shard + 1]
    }

    /// Where a sample is, with the rows of its shard, read where they are not in memory.
    pub fn entry(&self, sample: u64) -> Result<Entry> {
        let (shard, row) = self.place(sample);
        let rows = self.rows.get_or_insert_with(&shard, || (self.read)(shard).map(Arc::new))?;
        Ok(Entry { shard, row, rows })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use super::*;
    use crate::config::ShuffleConfig;
    use crate::dataset::order::{Candidates, Order};

    const SHARDS: u64 = 400_000;
    const SAMPLES: u64 = 5_000;

    /// A data set of two billion samples whose rows come from nowhere; counts what is read.
    fn simulated(reads: Arc<AtomicUsize>) -> Catalogue {
        Catalogue::new((0..SHARDS).map(|_| SAMPLES), move |shard| {
            reads.fetch_add(1, Ordering::Relaxed);
            let numbers = || (0..SAMPLES).map(|row| row + shard as u64);
            Ok(ShardRows {
                offsets: numbers().map(|number| number * 100_000).collect(),
                sizes: numbers().map(|number| number as u32).collect(),
                acceptance: vec![0.25; SAMPLES as usize],
                ..ShardRows::default()
            })
        })
    }

    /// Resuming far into a huge data set reads what the next samples need and no more, whether
    /// soft sampling redraws samples or not.
    #[test]
    fn position_1e9_of_two_billion_samples_is_reached_at_once_in_bounded_memory() {
        let reads = Arc::new(AtomicUsize::new(0));
        let catalogue = simulated(reads.clone());
        assert_eq!(catalogue.samples(), 2_000_000_000);
        let shuffle = ShuffleConfig::default();
        let start = Instant::now();
        let order = Order::new(1, catalogue.samples(), &shuffle);
        for position in 1_000_000_000..1_000_000_000 + 512 {
            let entry = catalogue.entry(order.sample_at(position)).unwrap();
            assert_eq!(entry.rows.sizes[entry.row] as usize, entry.row + entry.shard);
        }
        assert!(start.elapsed().as_secs_f64() < 1.0, "{:?}", start.elapsed());

        let acceptance = |sample| -> Result<f32> {
            let entry = catalogue.entry(sample)?;
            Ok(entry.rows.acceptance(entry.row))
        };
        for position in 1_000_000_512..1_000_000_000 + 20_000 {
            let mut candidates = Candidates::new(&order, position);
            candidates.next_accepted(1_000, Some(acceptance)).unwrap().unwrap();
        }
        // A chunk lies in at most two shards.
        let most = 2 * shuffle.window_chunks as usize * 2;
        assert!(reads.load(Ordering::Relaxed) <= most, "{reads:?} shards were read");

        // Far apart positions need one shard each; old ones are forgotten.
        for step in 0..20_000 {
            catalogue.entry(order.sample_at(1_000_000_000 + step * 50_000)).unwrap();
        }
        assert!(reads.load(Ordering::Relaxed) > 10_000);
        let held = catalogue.rows.weight();
        assert!(held <= ROWS_IN_MEMORY, "{held} bytes of rows are in memory");
    }

    #[test]
    fn places_follow_the_shards() {
        let catalogue = Catalogue::new([2, 0, 3], |_| Ok(ShardRows::default()));
        let places: Vec<_> = (0..5).map(|sample| catalogue.place(sample)).collect();
        assert_eq!(places, [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]);
        assert_eq!(catalogue.samples(), 5);
    }
}
