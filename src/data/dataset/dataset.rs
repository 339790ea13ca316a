//! A data set: the images that are kept from a list of shards, found by position.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Error, Result, ensure};

use crate::config::{DataConfig, ShuffleConfig, TargetConfig};
use crate::image::{
    ClassMap, CropOptions, CropRange, ImageStats, SampleDecoder, SamplePlan, TargetPlan, Transform,
};
use crate::source::{Segment, ShardAddress, Sources};

use super::catalogue::{Catalogue, Entry};
use super::curation::Selection;
use super::evaluation::EvaluationPass;
use super::failures::{FailureCounts, Failures};
use super::index_cache::{IndexCache, ShardProgress};
use super::order::{Candidates, Order, Window};
use super::selection::{self, ShardEntry};

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
    plan: SamplePlan,
    selection: Selection,
    fingerprint: String,
    content: String,
    failures: Failures,
}

/// Memory for filling samples in this process, reused from image to image.
#[derive(Default)]
pub struct Scratch {
    pub(super) encoded: Vec<u8>,
    pub(super) decoder: SampleDecoder,
}

/// The images that are tried at one position, until one decodes.
pub struct Attempts {
    position: u64,
    candidates: Candidates,
    tried: usize,
}

/// Where the bytes of a sample's fields are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleLocation {
    sample: u64,
    pub(super) shard: usize,
    /// Those of the image in its shard.
    pub(super) image: Range<u64>,
    /// Those of each dense target; empty where the sample has none.
    targets: Vec<Range<u64>>,
    /// Class of the image, where it has one.
    pub label: Option<u32>,
}

impl SampleLocation {
    /// Number of encoded bytes of all fields.
    pub fn bytes(&self) -> u64 {
        self.fields().map(|range| range.end - range.start).sum()
    }

    /// The bytes of the image and of the targets.
    pub(super) fn fields(&self) -> impl Iterator<Item = &Range<u64>> {
        std::iter::once(&self.image).chain(&self.targets)
    }
}

/// A sample that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Where its fields are.
    pub location: SampleLocation,
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
        Self::from_shards(config, seed, sources, &shards, progress)
    }

    /// An evaluation pass over the data set: its samples once, in the order of shards and rows, each
    /// cut to the central square. What is drawn at random for training is not drawn: no crop, no
    /// shuffle, no sampling by hardness; curation's thresholds hold. Positions are `0..sample_count`,
    /// and an image that does not decode leaves its position empty. Errors about the patterns of
    /// `config.shards` name `key`, where the user gave them.
    pub fn for_evaluation(
        config: &DataConfig,
        key: &str,
        pass: EvaluationPass,
        progress: ShardProgress<'_>,
    ) -> Result<Self> {
        let sources = Arc::new(Sources::new(config)?);
        let shards = sources.expand(&config.shards, key)?;
        Self::evaluation_from_shards(config, sources, &shards, pass, progress)
    }

    /// An evaluation pass over `shards`; otherwise as [`Dataset::for_evaluation`].
    ///
    /// # Errors
    /// [`Dataset::from_shards`]'s.
    pub fn evaluation_from_shards(
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
        let mut dataset = Self::from_shards(&config, 0, sources, shards, progress)?;
        dataset.order = Order::in_sequence(dataset.catalogue.samples(), pass.most_samples);
        dataset.plan.transform = Transform::Central { measure: pass.measure };
        dataset.failures = Failures::new("nothing takes its place");
        Ok(dataset)
    }

    /// Pairs of an image and one target, whose files `shard` bundles, cut by `transform`; stored classes
    /// stand for what `classes` says. Positions are an endless stream shuffled by `seed`, or of a transform
    /// for evaluation `0..sample_count` in order, `most_samples` at most.
    ///
    /// # Errors
    /// The bundle has no samples.
    pub fn for_pairs(
        config: &DataConfig,
        seed: u64,
        sources: Arc<Sources>,
        shard: ShardAddress,
        transform: Transform,
        classes: Option<ClassMap>,
        most_samples: u64,
    ) -> Result<Self> {
        let mut dataset = Self::from_shards(config, seed, sources, &[shard], &|_, _| ())?;
        dataset.plan.transform = transform;
        for target in &mut dataset.plan.targets {
            target.classes.clone_from(&classes);
        }
        if dataset.plan.transform.is_for_evaluation() {
            dataset.order = Order::in_sequence(dataset.catalogue.samples(), most_samples);
            dataset.failures = Failures::new("nothing takes its place");
        }
        Ok(dataset)
    }

    /// The data set of `shards`; otherwise as [`Dataset::open`].
    ///
    /// # Errors
    /// A shard or JSON file is damaged, or curation keeps nothing.
    pub fn from_shards(
        config: &DataConfig,
        seed: u64,
        sources: Arc<Sources>,
        shards: &[ShardAddress],
        progress: ShardProgress<'_>,
    ) -> Result<Self> {
        let indexes = IndexCache::new(sources.clone(), config.index_dir.as_deref());
        let indexes = Arc::new(indexes.with(config.wanted()?));
        let chosen = selection::choose(shards, &indexes, config, progress)?;
        let mut selection = Selection::default();
        chosen.iter().for_each(|one| selection += one.selection);
        let fingerprint = selection::fingerprint(&chosen);
        let content = selection::content(&chosen);
        let shards = Arc::new(chosen);
        let catalogue = {
            let (shards, indexes) = (shards.clone(), indexes.clone());
            let curation = config.curation.clone();
            let counts: Vec<u64> = shards.iter().map(|one| one.selection.kept).collect();
            Catalogue::new(counts, move |shard| {
                selection::rows(&shards[shard], &indexes, curation.as_ref())
            })
        };
        Ok(Self {
            config: config.clone(),
            sources,
            indexes,
            plan: training_plan(config, seed),
            order: Order::new(seed, catalogue.samples(), &config.shuffle),
            shards,
            catalogue,
            selection,
            fingerprint,
            content,
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

    /// Tells it from another data set whose images lie at the same places, by bytes of some of them.
    pub fn content(&self) -> &str {
        &self.content
    }

    /// How samples are shuffled.
    pub fn shuffle(&self) -> &ShuffleConfig {
        &self.config.shuffle
    }

    /// Bytes of one sample: of its image `[input_size, input_size, 3]`, and then of each dense
    /// target `[input_size, input_size]`, in the order of their names.
    pub fn sample_bytes(&self) -> usize {
        self.plan.field_bytes().iter().sum()
    }

    /// What is made of each sample.
    pub fn plan(&self) -> &SamplePlan {
        &self.plan
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
        let location = self.next_location(&mut self.attempts(position))?;
        Ok(location.map_or(position, |location| location.sample))
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
    pub fn next_location(&self, attempts: &mut Attempts) -> Result<Option<SampleLocation>> {
        let position = attempts.position;
        loop {
            if self.plan.transform.is_for_evaluation() {
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
            let location = self.location(sample)?;
            match self.check_sizes(&location) {
                Ok(()) => return Ok(Some(location)),
                Err(error) => self.record_failure(&location, &error)?,
            }
        }
    }

    /// Whether every field is there, and of a sensible size.
    pub(super) fn check_sizes(&self, location: &SampleLocation) -> Result<()> {
        let most = u64::from(MOST_ENCODED_BYTES);
        for range in location.fields() {
            ensure!(range.end - range.start <= most, "encoded size of over {most} bytes");
        }
        for ((name, target), range) in self.config.targets.iter().zip(&location.targets) {
            let member = &target.member;
            ensure!(!range.is_empty(), "has no `.{member}` member for target `{name}` beside it");
        }
        Ok(())
    }

    /// The local files that hold the bytes of each field, the image first. Waits until they are
    /// here.
    pub fn locate(&self, location: &SampleLocation) -> Result<Vec<Vec<Segment>>> {
        let ShardEntry { shard, stamp, .. } = &self.shards[location.shard];
        let locate = |range: &Range<u64>| self.sources.locate(shard, *stamp, range.clone());
        location.fields().map(locate).collect()
    }

    /// Counts an image that decoded.
    pub fn record_success(&self) {
        self.failures.record_success();
    }

    /// Counts an image that did not decode, and names it once in a warning.
    ///
    /// # Errors
    /// More images fail than `data.max_failed_share`.
    pub fn record_failure(&self, location: &SampleLocation, error: &Error) -> Result<()> {
        let share = self.config.max_failed_share;
        self.failures.record(location.sample, error, share, || self.describe(location))
    }

    /// What to say when the bytes at `location` cannot be read.
    pub fn unreadable(&self, location: &SampleLocation) -> String {
        format!(
            "{}: cannot be read at byte {}; did it change since the run began?",
            self.shards[location.shard].shard, location.image.start
        )
    }

    /// Fills `out`, of [`Self::sample_bytes`], with the fields of the sample at `position`, in this
    /// process. Worker processes fill the same.
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
        let bytes = self.sample_bytes();
        ensure!(out.len() == bytes, "{} bytes do not hold a sample of {bytes}", out.len());
        let mut attempts = self.attempts(position);
        while let Some(location) = self.next_location(&mut attempts)? {
            match self.make(scratch, position, &location, out)? {
                Ok(image) => {
                    self.record_success();
                    return Ok(Some(Sample { location, image }));
                }
                Err(error) => self.record_failure(&location, &error)?,
            }
        }
        out.fill(0);
        Ok(None)
    }

    /// Fills `out` with all fields of a sample, or says which is bad.
    ///
    /// # Errors
    /// The shard cannot be read any more.
    fn make(
        &self,
        scratch: &mut Scratch,
        position: u64,
        location: &SampleLocation,
        mut out: &mut [u8],
    ) -> Result<Result<ImageStats>> {
        let Scratch { encoded, decoder } = scratch;
        let mut image: Option<ImageStats> = None;
        for ((field, range), bytes) in location.fields().enumerate().zip(self.plan.field_bytes()) {
            self.read(location, range, encoded)?;
            let (plane, rest) = out.split_at_mut(bytes);
            let made = decoder.field(&self.plan, field, (position, image), encoded, plane);
            decoder.forget_huge(encoded);
            match made {
                Ok(found) => image = Some(found),
                Err(error) => return Ok(Err(error)),
            }
            out = rest;
        }
        Ok(image.context("a sample has an image"))
    }

    /// The window that `position` lies in.
    pub(crate) fn window_at(&self, position: u64) -> Window {
        self.order.window_at(position)
    }

    /// Positions in which each lane of the shuffle gives a whole window.
    pub(crate) fn positions_of_a_turn(&self) -> u64 {
        self.order.turn()
    }

    /// Reads ahead the bytes of `samples`, which are neighbours.
    ///
    /// # Errors
    /// A shard's index cannot be read any more.
    pub(crate) fn read_ahead(&self, samples: Range<u64>) -> Result<()> {
        let mut next = samples.start;
        while next < samples.end {
            let entry = self.catalogue.entry(next)?;
            let rows =
                entry.row..entry.rows.offsets.len().min(entry.row + (samples.end - next) as usize);
            let ShardEntry { shard, stamp, .. } = &self.shards[entry.shard];
            self.sources.prefetch(shard, *stamp, entry.rows.extent(rows.clone()));
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

    pub(super) fn location(&self, sample: u64) -> Result<SampleLocation> {
        let Entry { shard, row, rows } = self.catalogue.entry(sample)?;
        let start = rows.offsets[row];
        let image = start..start + u64::from(rows.sizes[row]);
        let targets = rows.fields.iter().map(|field| field.range(row)).collect();
        Ok(SampleLocation { sample, shard, image, targets, label: rows.label(row) })
    }

    pub(super) fn read(
        &self,
        location: &SampleLocation,
        range: &Range<u64>,
        encoded: &mut Vec<u8>,
    ) -> Result<()> {
        let ShardEntry { shard, stamp, .. } = &self.shards[location.shard];
        self.sources
            .read(shard, *stamp, range.clone(), encoded)
            .with_context(|| self.unreadable(location))
    }

    /// Whether an image's bytes are fetched from elsewhere.
    pub(crate) fn is_remote(&self, location: &SampleLocation) -> bool {
        !self.shards[location.shard].shard.is_local()
    }

    /// Shard and member of an image, for messages. Names are not kept in memory, but looked up.
    pub fn describe(&self, location: &SampleLocation) -> String {
        let shard = &self.shards[location.shard].shard;
        let offset = location.image.start;
        if let ShardAddress::Bundle(bundle) = shard {
            return format!("{shard}: {}", bundle.file_of(&location.image).display());
        }
        let index = self.indexes.open(shard).ok().map(|cached| cached.index);
        let member = index
            .and_then(|index| index.row_at(&location.image).map(|row| index.name(row).to_string()))
            .unwrap_or_else(|| format!("(at byte {offset})"));
        format!("{shard}: member `{member}`")
    }
}

/// What training makes of each sample.
fn training_plan(config: &DataConfig, seed: u64) -> SamplePlan {
    let range = CropRange { scale: config.crop_scale, ratio: config.crop_ratio };
    let options = CropOptions {
        image_size: config.input_size,
        max_pixels: config.max_pixels,
        reduced_decoding: config.reduced_decoding,
        exif: config.exif,
    };
    let target = |(name, target): (&String, &TargetConfig)| TargetPlan {
        name: name.clone(),
        pixels: target.pixels,
        classes: None,
    };
    let targets = config.targets.iter().map(target).collect();
    SamplePlan { transform: Transform::Random { seed, range }, options, targets }
}
