//! A data set: the images that are kept from a list of shards, found by position.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Error, Result, ensure};
use rayon::prelude::*;

use super::catalogue::Catalogue;
use super::curation::Selection;
use super::evaluation::EvaluationPass;
use super::failures::{FailureCounts, Failures};
use super::index_cache::IndexCache;
use super::index_cache::ShardProgress;
use super::order::{Candidates, Order, Window};
use super::selection::{self, ShardEntry};
use crate::config::{DataConfig, ShuffleConfig};
use crate::image::decode::{self, Image};
use crate::image::{CropDecoder, CropOptions, CropRange, KEPT_BYTES};
use crate::image::{ImageStats, Transform};
use crate::source::{Segment, ShardAddress, Sources};

/// Tries of one position before giving up, however many failures are allowed.
const MOST_TRIES: usize = 10_000;

/// Draws of one try before giving up; each is rejected with a probability that soft sampling has.
const MOST_DRAWS: usize = 1_000_000;

/// No image of a sensible size takes more encoded bytes than this.
const MOST_ENCODED_BYTES: u32 = 1 << 30;

/// Images in shards, in the order of a seed. Shared by all threads of a process.
pub struct Dataset {
    config: DataConfig,
    sources: Arc<Sources>,
    pub(super) indexes: Arc<IndexCache>,
    pub(super) shards: Arc<Vec<ShardEntry>>,
    pub(super) catalogue: Catalogue,
    pub(super) order: Order,
    transform: Transform,
    selection: Selection,
    fingerprint: String,
    failures: Failures,
}

/// Memory for filling samples in this process, reused from image to image.
#[derive(Default)]
pub struct Scratch {
    encoded: Vec<u8>,
    decoder: CropDecoder,
}

/// The images that one position tries until one decodes.
pub struct Attempts {
    position: u64,
    candidates: Candidates,
    tried: usize,
}

/// An image's bytes: where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    sample: u64,
    pub(super) shard: usize,
    pub(super) range: Range<u64>,
    /// Class of the image, where it has one.
    pub label: Option<u32>,
}

impl Place {
    /// Number of encoded bytes.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// A sample that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Where its image is.
    pub place: Place,
    pub image: ImageStats,
}

impl Dataset {
    /// Finds the shards, indexes them (reusing kept indexes), applies curation, and orders what
    /// is left by `seed`. `progress` is told how many shards are indexed.
    ///
    /// # Errors
    /// A pattern matches nothing ([`distill_base::ConfigError`]), a shard or JSON file is
    /// damaged, or curation keeps nothing.
    pub fn open(config: &DataConfig, seed: u64, progress: ShardProgress<'_>) -> Result<Self> {
        let sources = Arc::new(Sources::new(config)?);
        let shards = sources.expand(&config.shards, "data.shards")?;
        Self::of_shards(config, seed, sources, &shards, progress)
    }

    /// An evaluation pass over the data set: its samples once, in the order of shards and rows, each
    /// cut to the central square. What is drawn at random for training is not drawn: no crop, no
    /// shuffle, no sampling by hardness; curation's thresholds hold. Positions are `0..sample_count`,
    /// and an image that does not decode leaves its position empty. Errors about the patterns of
    /// `config.shards` name `key`, where the user gave them.
    ///
    /// # Errors
    /// [`Dataset::open`]'s.
    pub fn for_evaluation(
        config: &DataConfig,
        key: &str,
        pass: EvaluationPass,
        progress: ShardProgress<'_>,
    ) -> Result<Self> {
        let sources = Arc::new(Sources::new(config)?);
        let shards = sources.expand(&config.shards, key)?;
        Self::evaluation_of_shards(config, sources, &shards, pass, progress)
    }

    /// An evaluation pass over `shards`; otherwise as [`Dataset::for_evaluation`].
    ///
    /// # Errors
    /// [`Dataset::of_shards`]'s.
    pub fn evaluation_of_shards(
        config: &DataConfig,
        sources: Arc<Sources>,
        shards: &[ShardAddress],
        pass: EvaluationPass,
        progress: ShardProgress<'_>,
    ) -> Result<Self> {
        let mut config = config.clone();
        if let Some(curation) = &mut config.curation {
            curation.sample_by_hardness = false;
        }
        let mut dataset = Self::of_shards(&config, 0, sources, shards, progress)?;
        dataset.order = Order::in_sequence(dataset.catalogue.samples(), pass.most_samples);
        dataset.transform = Transform::Central { measure: pass.measure };
        dataset.failures = Failures::new("nothing takes its place");
        Ok(dataset)
    }

    /// The data set of `shards`; otherwise as [`Dataset::open`].
    ///
    /// # Errors
    /// A shard or JSON file is damaged, or curation keeps nothing.
    pub fn of_shards(
        config: &DataConfig,
        seed: u64,
        sources: Arc<Sources>,
        shards: &[ShardAddress],
        progress: ShardProgress<'_>,
    ) -> Result<Self> {
        let indexes = Arc::new(IndexCache::new(sources.clone(), config.index_dir.as_deref()));
        let chosen = selection::choose(shards, &indexes, config.curation.as_ref(), progress)?;
        let mut selection = Selection::default();
        chosen.iter().for_each(|one| selection += one.selection);
        let fingerprint = selection::fingerprint(&chosen);
        let shards = Arc::new(chosen);
        let catalogue = {
            let (shards, indexes) = (shards.clone(), indexes.clone());
            let curation = config.curation.clone();
            let counts: Vec<u64> = shards.iter().map(|one| one.selection.kept).collect();
            Catalogue::new(counts, move |shard| {
                selection::rows(&shards[shard], &indexes, curation.as_ref())
            })
        };
        let range = CropRange { scale: config.crop_scale, ratio: config.crop_ratio };
        Ok(Self {
            config: config.clone(),
            sources,
            indexes,
            transform: Transform::Random { seed, range },
            order: Order::new(seed, catalogue.samples(), &config.shuffle),
            shards,
            catalogue,
            selection,
            fingerprint,
            failures: Failures::new("another image takes its place"),
        })
    }

    /// Number of samples in one pass.
    pub fn sample_count(&self) -> u64 {
        self.order.samples()
    }

    /// Number of shards.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// What curation kept and why not the rest; everything is kept without curation.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Names the data set by content: shard names, and the places, labels and probabilities of
    /// the kept images. A resumed run continues the same stream only if this is the same, and
    /// the seed and [`Self::shuffle`] too.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How samples are shuffled.
    pub fn shuffle(&self) -> &ShuffleConfig {
        &self.config.shuffle
    }

    /// Bytes of one sample: `[input_size, input_size, 3]`.
    pub fn sample_bytes(&self) -> usize {
        self.config.input_size * self.config.input_size * 3
    }

    /// What is made of each image.
    pub(crate) fn transform(&self) -> Transform {
        self.transform
    }

    /// How crops are decoded.
    pub fn crop_options(&self) -> CropOptions {
        CropOptions {
            image_size: self.config.input_size,
            max_pixels: self.config.max_pixels,
            reduced_decoding: self.config.reduced_decoding,
        }
    }

    /// Images tried and failed since this was opened.
    pub fn failure_counts(&self) -> FailureCounts {
        self.failures.counts()
    }

    /// The sample that stands at `position` unless its image turns out to be bad: a pure
    /// function of seed, data set and position.
    ///
    /// # Errors
    /// A shard's index or scores cannot be read any more.
    pub fn sample_at(&self, position: u64) -> Result<u64> {
        let place = self.next_place(&mut self.attempts(position))?;
        Ok(place.map_or(position, |place| place.sample))
    }

    /// The images that `position` tries.
    pub fn attempts(&self, position: u64) -> Attempts {
        Attempts { position, candidates: Candidates::new(&self.order, position), tried: 0 }
    }

    /// The next image to try: a pure function of seed, data set, position and the number of
    /// tries before. In an evaluation pass there is one, and nothing after it.
    ///
    /// # Errors
    /// A shard's index cannot be read any more, or there were too many tries.
    pub fn next_place(&self, attempts: &mut Attempts) -> Result<Option<Place>> {
        let position = attempts.position;
        loop {
            if matches!(self.transform, Transform::Central { .. }) {
                ensure!(position < self.sample_count(), "position {position} is behind the pass");
                if attempts.tried > 0 {
                    return Ok(None);
                }
            }
            ensure!(
                attempts.tried < MOST_TRIES,
                "{MOST_TRIES} images in a row failed to decode for position {position}"
            );
            attempts.tried += 1;
            let sample = attempts.candidates.next_accepted(MOST_DRAWS, self.acceptance())?;
            let sample = sample.with_context(|| {
                format!("{MOST_DRAWS} draws for position {position} were rejected by mae_loss")
            })?;
            let place = self.place(sample)?;
            if place.bytes() <= u64::from(MOST_ENCODED_BYTES) {
                return Ok(Some(place));
            }
            let error = anyhow::anyhow!("encoded size of over {MOST_ENCODED_BYTES} bytes");
            self.record_failure(&place, &error)?;
        }
    }

    /// The local files that hold an image's bytes. Waits until they are here.
    ///
    /// # Errors
    /// They cannot be brought here.
    pub fn locate(&self, place: &Place) -> Result<Vec<Segment>> {
        let ShardEntry { shard, stamp, .. } = &self.shards[place.shard];
        self.sources.locate(shard, *stamp, place.range.clone())
    }

    /// Counts an image that decoded.
    pub fn record_success(&self) {
        self.failures.record_success();
    }

    /// Counts an image that did not decode, and names it once in a warning.
    ///
    /// # Errors
    /// More images fail than `data.max_failed_share`.
    pub fn record_failure(&self, place: &Place, error: &Error) -> Result<()> {
        let share = self.config.max_failed_share;
        self.failures.record(place.sample, error, share, || self.describe(place))
    }

    /// What to say when the bytes at `place` cannot be read.
    pub fn unreadable(&self, place: &Place) -> String {
        format!(
            "{}: cannot be read at byte {}; did it change since the run began?",
            self.shards[place.shard].shard, place.range.start
        )
    }

    /// Fills `out` `[input_size, input_size, 3]` with the crop at `position`, in this process.
    /// Worker processes fill the same.
    ///
    /// An image that does not decode is counted, named once in a warning, and replaced by
    /// another one, which depends on seed, data set and position alone, as does the crop. In an
    /// evaluation pass it is not replaced: nothing is given, and `out` is black.
    ///
    /// # Errors
    /// A shard cannot be read any more, or more images fail than `data.max_failed_share`.
    pub fn fill(
        &self,
        scratch: &mut Scratch,
        position: u64,
        out: &mut [u8],
    ) -> Result<Option<Sample>> {
        let mut attempts = self.attempts(position);
        while let Some(place) = self.next_place(&mut attempts)? {
            self.read(&place, &mut scratch.encoded)?;
            let Scratch { encoded, decoder } = scratch;
            let made = self.transform.make(decoder, &self.crop_options(), position, encoded, out);
            if decoder.held_bytes().max(encoded.capacity()) > KEPT_BYTES {
                *scratch = Scratch::default();
            }
            match made {
                Ok(image) => {
                    self.record_success();
                    return Ok(Some(Sample { place, image }));
                }
                Err(error) => self.record_failure(&place, &error)?,
            }
        }
        out.fill(0);
        Ok(None)
    }

    /// Decodes every image once, in parallel, and gives the bad ones in order with the reason.
    /// `progress` is called after each image.
    pub fn check(&self, progress: &(dyn Fn() + Sync)) -> Vec<(String, Error)> {
        let decode = |encoded: &mut Vec<u8>, image: &mut Image, place: &Place| {
            ensure!(place.bytes() <= u64::from(MOST_ENCODED_BYTES), "encoded size is too large");
            self.read(place, encoded)?;
            decode::decode(encoded, self.config.max_pixels, image)
        };
        let try_one = |(encoded, image): &mut (Vec<u8>, Image), sample| {
            let bad = match self.place(sample) {
                Ok(place) => {
                    decode(encoded, image, &place).err().map(|e| (self.describe(&place), e))
                }
                Err(error) => Some((format!("sample {sample}"), error)),
            };
            progress();
            bad
        };
        let samples = (0..self.catalogue.samples()).into_par_iter();
        samples.map_init(Default::default, try_one).flatten_iter().collect()
    }

    /// The window that `position` lies in.
    pub(crate) fn window_at(&self, position: u64) -> Window {
        self.order.window_at(position)
    }

    /// Positions in which each lane of the shuffle gives a whole window.
    pub(crate) fn positions_of_a_turn(&self) -> u64 {
        self.order.turn()
    }

    /// Has the bytes of `samples`, which are neighbours, brought nearer.
    ///
    /// # Errors
    /// A shard's index cannot be read any more.
    pub(crate) fn read_ahead(&self, samples: Range<u64>) -> Result<()> {
        let mut next = samples.start;
        while next < samples.end {
            let entry = self.catalogue.entry(next)?;
            let rows =
                entry.row..entry.rows.offsets.len().min(entry.row + (samples.end - next) as usize);
            let last = rows.end - 1;
            let end = entry.rows.offsets[last] + u64::from(entry.rows.sizes[last]);
            let ShardEntry { shard, stamp, .. } = &self.shards[entry.shard];
            self.sources.prefetch(shard, *stamp, entry.rows.offsets[rows.start]..end);
            next += rows.len() as u64;
        }
        Ok(())
    }

    fn acceptance(&self) -> Option<impl Fn(u64) -> Result<f32>> {
        let sampled = self.config.curation.as_ref().is_some_and(|c| c.sample_by_hardness);
        sampled.then_some(|sample| {
            let entry = self.catalogue.entry(sample)?;
            Ok(entry.rows.acceptance(entry.row))
        })
    }

    pub(super) fn place(&self, sample: u64) -> Result<Place> {
        let entry = self.catalogue.entry(sample)?;
        let start = entry.rows.offsets[entry.row];
        let range = start..start + u64::from(entry.rows.sizes[entry.row]);
        Ok(Place { sample, shard: entry.shard, range, label: entry.rows.label(entry.row) })
    }

    fn read(&self, place: &Place, encoded: &mut Vec<u8>) -> Result<()> {
        let ShardEntry { shard, stamp, .. } = &self.shards[place.shard];
        self.sources
            .read(shard, *stamp, place.range.clone(), encoded)
            .with_context(|| self.unreadable(place))
    }

    /// Whether an image is in a shard that is not a file.
    pub(crate) fn is_remote(&self, place: &Place) -> bool {
        self.shards[place.shard].shard.as_file().is_none()
    }

    /// Shard and member of an image, for messages. Names are not kept in memory, but looked up.
    pub fn describe(&self, place: &Place) -> String {
        let shard = &self.shards[place.shard].shard;
        let offset = place.range.start;
        let index = self.indexes.open(shard).ok().map(|cached| cached.index);
        let member = index
            .and_then(|index| index.row_at(offset).map(|row| index.name(row).to_string()))
            .unwrap_or_else(|| format!("(at byte {offset})"));
        format!("{shard}: member `{member}`")
    }
}
