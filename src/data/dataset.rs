//! A data set: the pictures that are kept from a list of shards, filled in by position.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use rayon::prelude::*;

use crate::config::{CurationConfig, DataConfig};
use crate::draws::{Draws, Purpose};

use super::ShardProgress;
use super::crop::{CropBox, CropRange};
use super::crop_decoder::{CropDecoder, CropOptions};
use super::curation::{self, Selection};
use super::failures::{FailureCounts, Failures};
use super::index::{NO_LABEL, ShardIndex};
use super::index_cache::IndexCache;
use super::order::{Candidates, Order};
use super::picture::{self, Picture};
use super::shards::expand_patterns;

/// Shards that are kept open at a time.
const OPEN_FILES: usize = 128;

/// Tries of one position before giving up, however many failures are allowed.
const MOST_TRIES: usize = 10_000;

/// No picture of a sensible size takes more encoded bytes than this.
const MOST_ENCODED_BYTES: u32 = 1 << 30;

/// Decoding memory above this is given back after use: one huge picture must not stay for good.
const KEPT_BYTES: usize = 64 << 20;

/// Pictures in shards, in the order of a seed. Shared by all workers of a process.
pub struct Dataset {
    config: DataConfig,
    seed: u64,
    shards: Vec<Shard>,
    order: Order,
    selection: Selection,
    fingerprint: String,
    index_cache: IndexCache,
    open_files: Mutex<HashMap<usize, Arc<File>>>,
    failures: Failures,
}

/// The kept pictures of a shard, one row each.
struct Shard {
    path: PathBuf,
    /// Number of the first row among the samples of the data set.
    first: u64,
    offsets: Vec<u64>,
    sizes: Vec<u32>,
    /// Empty where no sample of the shard has a label.
    labels: Vec<u32>,
    /// Probability of acceptance; empty where every draw is accepted.
    acceptance: Vec<f32>,
}

/// A worker's memory, reused from picture to picture.
#[derive(Default)]
pub struct Scratch {
    encoded: Vec<u8>,
    picture: Picture,
    decoder: CropDecoder,
}

/// Where a picture's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    shard: usize,
    row: usize,
}

impl Dataset {
    /// Finds the shards, indexes them (reusing kept indexes), applies curation, and orders what
    /// is left by `seed`. `progress` is told how many shards are indexed.
    ///
    /// # Errors
    /// A pattern matches nothing ([`crate::config::ConfigError`]), a shard or JSON file is
    /// damaged, or curation keeps nothing.
    pub fn open(config: &DataConfig, seed: u64, progress: ShardProgress<'_>) -> Result<Self> {
        let paths = expand_patterns(&config.shards, "data.shards")?;
        let index_cache = IndexCache::new(config.index_dir.as_deref());
        let indexes = index_cache.open_all(&paths, progress);
        let indexes = all_or_first_error(indexes)?.into_iter().map(|cached| cached.index);
        Self::new(config, seed, index_cache, paths.into_iter().zip(indexes).collect())
    }

    /// The data set of `shards` and their indexes; otherwise as [`Dataset::open`].
    ///
    /// # Errors
    /// A JSON file is damaged, or curation keeps nothing.
    pub fn new(
        config: &DataConfig,
        seed: u64,
        index_cache: IndexCache,
        shards: Vec<(PathBuf, ShardIndex)>,
    ) -> Result<Self> {
        let curation = config.curation.as_ref();
        let chosen: Vec<Result<(Shard, Selection)>> =
            shards.into_par_iter().map(|(path, index)| choose(path, index, curation)).collect();
        let mut shards = Vec::with_capacity(chosen.len());
        let mut selection = Selection::default();
        let mut samples = 0;
        for (mut shard, part) in all_or_first_error(chosen)? {
            shard.first = samples;
            samples += part.kept;
            selection += part;
            shards.push(shard);
        }
        check_selection(&selection, &shards)?;
        Ok(Self {
            config: config.clone(),
            seed,
            order: Order::new(seed, samples),
            selection,
            fingerprint: fingerprint(&shards),
            shards,
            index_cache,
            open_files: Mutex::default(),
            failures: Failures::default(),
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
    /// the kept pictures. A resumed run continues the same stream only if this is the same.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Side of a sample's square, in pixels.
    pub fn input_size(&self) -> usize {
        self.config.input_size
    }

    /// Bytes of one sample: `[input_size, input_size, 3]`.
    pub fn sample_bytes(&self) -> usize {
        self.config.input_size * self.config.input_size * 3
    }

    /// Pictures tried and failed since this was opened.
    pub fn failure_counts(&self) -> FailureCounts {
        self.failures.counts()
    }

    /// The sample that stands at `position` unless its picture turns out to be bad: a pure
    /// function of seed, data set and position.
    pub fn sample_at(&self, position: u64) -> u64 {
        Candidates::new(&self.order, position).next_accepted(self.acceptance())
    }

    /// Fills `out` `[input_size, input_size, 3]` with the crop at `position` and gives its label.
    ///
    /// A picture that does not decode is counted, named once in a warning, and replaced by
    /// another one, which depends on seed, data set and position alone, as does the crop.
    ///
    /// # Errors
    /// A shard cannot be read any more, or more pictures fail than `data.max_failed_share`.
    pub fn fill(
        &self,
        scratch: &mut Scratch,
        position: u64,
        out: &mut [u8],
    ) -> Result<Option<u32>> {
        let mut candidates = Candidates::new(&self.order, position);
        for _ in 0..MOST_TRIES {
            let sample = candidates.next_accepted(self.acceptance());
            let place = self.place(sample);
            let crop = match self.check_encoded_size(place) {
                Ok(()) => {
                    self.read(place, &mut scratch.encoded)?;
                    self.crop(scratch, position, out)
                }
                Err(error) => Err(error),
            };
            if scratch.decoder.held_bytes().max(scratch.encoded.capacity()) > KEPT_BYTES {
                *scratch = Scratch::default();
            }
            match crop {
                Ok(()) => {
                    self.failures.record_success();
                    return Ok(self.label(place));
                }
                Err(error) => {
                    let share = self.config.max_failed_share;
                    self.failures.record(sample, &error, share, || self.describe(place))?;
                }
            }
        }
        bail!("{MOST_TRIES} pictures in a row failed to decode for position {position}")
    }

    fn crop(&self, scratch: &mut Scratch, position: u64, out: &mut [u8]) -> Result<()> {
        let options = CropOptions {
            side: self.config.input_size,
            max_pixels: self.config.max_pixels,
            reduced_decoding: false,
        };
        let mut draws = Draws::new(self.seed, Purpose::Crop, 0, position);
        let range = CropRange { scale: self.config.crop_scale, ratio: self.config.crop_ratio };
        let choose = |width, height| CropBox::draw(&mut draws, width, height, &range);
        scratch.decoder.decode(&scratch.encoded, &options, choose, out)
    }

    /// Decodes every picture once, in parallel, and gives the bad ones in order with the reason.
    /// `progress` is called after each picture.
    pub fn check(&self, progress: &(dyn Fn() + Sync)) -> Vec<(String, Error)> {
        let try_one = |scratch: &mut Scratch, sample| {
            let place = self.place(sample);
            let read = |()| self.read(place, &mut scratch.encoded);
            let result = self.check_encoded_size(place).and_then(read).and_then(|()| {
                let max_pixels = self.config.max_pixels;
                picture::decode(&scratch.encoded, max_pixels, &mut scratch.picture)
            });
            progress();
            result.err().map(|error| (self.describe(place), error))
        };
        let samples = (0..self.sample_count()).into_par_iter();
        samples.map_init(Scratch::default, try_one).flatten_iter().collect()
    }

    fn acceptance(&self) -> Option<impl Fn(u64) -> f32> {
        let sampled = self.config.curation.as_ref().is_some_and(|c| c.sample_by_hardness);
        sampled.then_some(|sample| {
            let Place { shard, row } = self.place(sample);
            self.shards[shard].acceptance[row]
        })
    }

    fn place(&self, sample: u64) -> Place {
        let shard = self.shards.partition_point(|shard| shard.first <= sample) - 1;
        Place { shard, row: (sample - self.shards[shard].first) as usize }
    }

    fn label(&self, Place { shard, row }: Place) -> Option<u32> {
        self.shards[shard].labels.get(row).copied().filter(|&label| label != NO_LABEL)
    }

    fn check_encoded_size(&self, Place { shard, row }: Place) -> Result<()> {
        let size = self.shards[shard].sizes[row];
        ensure!(size <= MOST_ENCODED_BYTES, "encoded size of over {MOST_ENCODED_BYTES} bytes");
        Ok(())
    }

    fn read(&self, Place { shard, row }: Place, encoded: &mut Vec<u8>) -> Result<()> {
        let number = shard;
        let shard = &self.shards[number];
        let advice = || {
            format!(
                "{}: cannot be read at byte {}; did it change since the run began?",
                shard.path.display(),
                shard.offsets[row]
            )
        };
        let file = self.open_file(number).with_context(advice)?;
        encoded.resize(shard.sizes[row] as usize, 0);
        file.read_exact_at(encoded, shard.offsets[row]).with_context(advice)
    }

    fn open_file(&self, shard: usize) -> Result<Arc<File>> {
        let mut open = self.open_files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&shard) {
            return Ok(file.clone());
        }
        if open.len() >= OPEN_FILES
            && let Some(&other) = open.keys().next()
        {
            open.remove(&other);
        }
        let file = Arc::new(File::open(&self.shards[shard].path)?);
        open.insert(shard, file.clone());
        Ok(file)
    }

    /// Shard and member of a picture, for messages. Names are not kept in memory, but looked up.
    fn describe(&self, Place { shard, row }: Place) -> String {
        let Shard { path, offsets, .. } = &self.shards[shard];
        let index = self.index_cache.open(path).ok().map(|cached| cached.index);
        let member = index
            .and_then(|index| index.row_at(offsets[row]).map(|row| index.name(row).to_string()))
            .unwrap_or_else(|| format!("(at byte {})", offsets[row]));
        format!("{}: member `{member}`", path.display())
    }
}

/// Keeps the rows of `index` that `curation` keeps.
fn choose(
    path: PathBuf,
    index: ShardIndex,
    curation: Option<&CurationConfig>,
) -> Result<(Shard, Selection)> {
    let mut labels = if index.labelled() > 0 { index.labels.clone() } else { Vec::new() };
    let Some(curation) = curation else {
        let kept = index.rows() as u64;
        let ShardIndex { offsets, sizes, .. } = index;
        let shard = Shard { path, first: 0, offsets, sizes, labels, acceptance: Vec::new() };
        return Ok((shard, Selection { kept, ..Selection::default() }));
    };
    let curated = curation::curate(curation, &path, &index)?;
    let rows = || curated.rows.iter().map(|&row| row as usize);
    if !labels.is_empty() {
        labels = rows().map(|row| labels[row]).collect();
    }
    let offsets = rows().map(|row| index.offsets[row]).collect();
    let sizes = rows().map(|row| index.sizes[row]).collect();
    let shard = Shard { path, first: 0, offsets, sizes, labels, acceptance: curated.acceptance };
    Ok((shard, curated.selection))
}

fn check_selection(selection: &Selection, shards: &[Shard]) -> Result<()> {
    ensure!(
        selection.kept > 0,
        "data.curation keeps none of {} pictures: {} have no scores, {} a histogram_score that is \
         too low, {} are too small, {} have a mae_loss of 0",
        selection.pictures(),
        selection.without_scores,
        selection.low_histogram_score,
        selection.small,
        selection.never_drawn
    );
    let acceptance = shards.iter().flat_map(|shard| &shard.acceptance);
    let accepted: f64 = acceptance.map(|&probability| f64::from(probability)).sum();
    let sampled = shards.iter().any(|shard| !shard.acceptance.is_empty());
    ensure!(
        !sampled || accepted / selection.kept as f64 > 1e-4,
        "the mean mae_loss of {} kept pictures is {:.1e}, so nearly every draw would be rejected; \
         set data.curation.sample_by_hardness = false",
        selection.kept,
        accepted / selection.kept as f64
    );
    Ok(())
}

fn fingerprint(shards: &[Shard]) -> String {
    let mut hasher = blake3::Hasher::new();
    for Shard { path, offsets, sizes, labels, acceptance, .. } in shards {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        for part in [name.len(), offsets.len(), labels.len(), acceptance.len()] {
            hasher.update(&(part as u64).to_le_bytes());
        }
        hasher.update(name);
        offsets.iter().for_each(|offset| _ = hasher.update(&offset.to_le_bytes()));
        sizes.iter().chain(labels).for_each(|number| _ = hasher.update(&number.to_le_bytes()));
        acceptance.iter().for_each(|share| _ = hasher.update(&share.to_le_bytes()));
    }
    hasher.finalize().to_hex().to_string()
}

/// All values, or the first error with how many there are.
fn all_or_first_error<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    let more = results.iter().filter(|result| result.is_err()).count().saturating_sub(1);
    results.into_iter().collect::<Result<Vec<T>>>().map_err(|error| match more {
        0 => error,
        _ => anyhow!("{error:#} (and {more} more shards have errors)"),
    })
}
