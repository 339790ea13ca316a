//! Features of all images of a data source, part by part.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tch::{Device, Tensor};
use tracing::info;

use super::manifest::{FeatureTokens, FileFormat, Manifest, NumberFormat};
use super::part::{Gathered, POOLED, Part, Row, rows_of};
use crate::config::{DataConfig, TrainConfig};
use crate::data::{Batch, Dataset, EvaluationPass, Loader};
use crate::dist::ProcessGroup;
use crate::encoders::Input;
use crate::native::{guard, upload};
use crate::nn::Normalisation;
use crate::run::frozen_encoder::FrozenEncoder;
use crate::run::measuring::{Measuring, as_option};
use crate::run::opening::opening;
use crate::run::setup;
use crate::run::worker_program::worker_program;
use crate::status;
use crate::ui::screen::Phase;

/// What is to be kept of which images.
#[derive(Debug, Clone)]
pub struct FeaturesJob {
    /// The encoder, and how images are read and computed with.
    pub measuring: Measuring,
    /// Shards, or folders of images.
    pub images: Vec<String>,
    pub tokens: Vec<FeatureTokens>,
    pub format: FileFormat,
    pub store: NumberFormat,
    /// Images in a part; none: as many as make some 256 MiB.
    pub part_images: Option<u64>,
    pub out: PathBuf,
}

/// How it ended.
#[derive(Debug)]
pub enum FeaturesOutcome {
    /// What is there now, where this process tells of it.
    Finished(Option<Written>),
    /// By a signal; whole parts are kept.
    Stopped,
}

/// What a folder of features has.
#[derive(Debug)]
pub struct Written {
    /// Images with features.
    pub rows: u64,
    pub undecodable: u64,
    pub parts: u64,
    /// Parts that were there already.
    pub kept: u64,
    /// Images a second of all processes, of those that were gone over now.
    pub rate: f64,
}

impl FeaturesJob {
    /// Writes the features, or those that are missing. Under a launcher all its processes call this, and each
    /// writes every so-manieth part.
    ///
    /// # Errors
    /// Weights or images cannot be read, the folder has features of another kind or another process at
    /// work, or the disk is full.
    pub fn run(&self) -> Result<FeaturesOutcome> {
        let mut train = TrainConfig::minimal("features");
        let Measuring { device, precision, .. } = self.measuring;
        (train.run.device, train.run.precision) = (device, precision);
        let work = |group: &ProcessGroup, device: Device| self.work(group, device);
        let outcome = setup::with_group(&train, |_| Ok(()), |error| error, work);
        Ok(outcome.map_err(as_option)?.unwrap_or(FeaturesOutcome::Stopped))
    }

    fn work(&self, group: &ProcessGroup, device: Device) -> Result<FeaturesOutcome> {
        let encoder = self.measuring.load(device)?;
        let data = DataConfig { shards: self.images.clone(), ..self.measuring.data(&encoder)? };
        let dataset = opening("opening images", |progress| {
            Dataset::for_evaluation(&data, "--images", EvaluationPass::WHOLE, progress)
        })?;
        let dataset = Arc::new(dataset);
        let (manifest, _lock) = self.settle(&encoder, &dataset, group)?;
        let step = group.world_size() as u64;
        let own = (group.rank() as u64..manifest.parts).step_by(step as usize);
        let (done, left): (Vec<u64>, Vec<u64>) =
            own.partition(|part| rows_of(&self.out, *part).is_some());
        let begun = Instant::now();
        let writer = PartWriter { job: self, encoder: &encoder, manifest: &manifest, group };
        let seen = writer.write_all(&dataset, &data, &left, device)?;
        let is_stopped = seen.is_none();
        if group.any(is_stopped)? {
            return Ok(FeaturesOutcome::Stopped);
        }
        let rows_of_part = |part: &u64| rows_of(&self.out, *part).unwrap_or(0);
        let rows = done.iter().chain(&left).map(rows_of_part).sum::<u64>();
        let counts = [rows, done.len() as u64, seen.unwrap_or(0)].map(|count| count as i64);
        let [rows, kept, seen] = group.sum_counts(counts)?.map(|count| count as u64);
        if !group.is_first() {
            return Ok(FeaturesOutcome::Finished(None));
        }
        Manifest { rows: Some(rows), ..manifest.clone() }.write(&self.out)?;
        let rate = seen as f64 / begun.elapsed().as_secs_f64().max(1e-9);
        let (undecodable, parts) = (manifest.samples - rows, manifest.parts);
        Ok(FeaturesOutcome::Finished(Some(Written { rows, undecodable, parts, kept, rate })))
    }

    /// Begins the folder, or finds that it holds parts of the same. The first process looks; it holds the lock.
    fn settle(
        &self,
        encoder: &FrozenEncoder,
        dataset: &Dataset,
        group: &ProcessGroup,
    ) -> Result<(Manifest, Option<File>)> {
        let there = Manifest::read(&self.out)?;
        // Not whether another process is at work, but what it began with.
        group.any(false)?;
        let mut manifest = self.manifest(encoder, dataset)?;
        if let (Some(there), None) = (&there, self.part_images) {
            (manifest.part_images, manifest.parts) = (there.part_images, there.parts);
        }
        let mut lock = None;
        if group.is_first() {
            let fail = || format!("--out {}: cannot be written to", self.out.display());
            fs::create_dir_all(&self.out).with_context(fail)?;
            lock = Some(hold(&self.out)?);
            match &there {
                Some(there) => manifest.require_same(there, &self.out)?,
                None => manifest.write(&self.out)?,
            }
        }
        // Nobody writes where the first process refused to.
        group.any(false)?;
        Ok((manifest, lock))
    }

    fn manifest(&self, encoder: &FrozenEncoder, dataset: &Dataset) -> Result<Manifest> {
        let shape = encoder.model.shape();
        ensure!(
            shape.class_tokens > 0 || !self.tokens.contains(&FeatureTokens::Class),
            "--tokens class: {} has no class token, expected pooled or patches",
            encoder.name
        );
        let side = encoder.image_size as i64 / shape.patch_size;
        let samples = dataset.sample_count();
        let mut manifest = Manifest {
            version: Manifest::VERSION,
            weights: self.measuring.encoder.describe(),
            encoder: encoder.name.clone(),
            digest: self.measuring.encoder.digest("--weights")?,
            images: self.images.clone(),
            data: dataset.fingerprint().to_string(),
            samples,
            input_size: encoder.image_size,
            precision: self.measuring.precision.name().to_string(),
            tokens: self.tokens.clone(),
            format: self.format,
            store: self.store,
            dim: shape.dim,
            class_tokens: shape.class_tokens,
            grid: [side; 2],
            part_images: 0,
            parts: 0,
            rows: None,
        };
        let numbers: i64 =
            manifest.shapes().iter().map(|(_, shape)| shape.iter().product::<i64>()).sum();
        let bytes = numbers as u64 * self.store.kind().elt_size_in_bytes() as u64;
        manifest.part_images = self.part_images.unwrap_or_else(|| Manifest::usual_part(bytes));
        manifest.parts = samples.div_ceil(manifest.part_images);
        Ok(manifest)
    }
}

impl Manifest {
    /// Names of the tensors, and their shapes for one image.
    fn shapes(&self) -> Vec<(&'static str, Vec<i64>)> {
        let mut shapes = vec![(POOLED, vec![self.dim])];
        if self.tokens.contains(&FeatureTokens::Class) {
            shapes.push((CLASS, vec![self.class_tokens, self.dim]));
        }
        if self.tokens.contains(&FeatureTokens::Patches) {
            shapes.push((PATCHES, vec![self.grid[0], self.grid[1], self.dim]));
        }
        shapes
    }

    /// The places of a part.
    fn places(&self, part: u64) -> std::ops::Range<u64> {
        let first = part * self.part_images;
        first..self.samples.min(first + self.part_images)
    }
}

const CLASS: &str = "class";
const PATCHES: &str = "patches";

/// Holds `folder` against another process that would write there.
fn hold(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            bail!("--out {}: another process writes features there", folder.display())
        }
        // A file system without locks guards nothing, and writes as well.
        _ => Ok(file),
    }
}

/// Goes over images and writes parts.
struct PartWriter<'a> {
    job: &'a FeaturesJob,
    encoder: &'a FrozenEncoder,
    manifest: &'a Manifest,
    group: &'a ProcessGroup,
}

impl PartWriter<'_> {
    /// Writes the `parts`, and gives the number of images gone over; none, where an end was asked for.
    fn write_all(
        &self,
        dataset: &Arc<Dataset>,
        data: &DataConfig,
        parts: &[u64],
        device: Device,
    ) -> Result<Option<u64>> {
        if parts.is_empty() {
            return Ok(Some(0));
        }
        let size = data.batch_size as u64;
        let batches_of = |places: std::ops::Range<u64>| {
            let end = places.end;
            places.step_by(size as usize).map(move |first| first..end.min(first + size))
        };
        let ranges: Vec<_> =
            parts.iter().flat_map(|&part| batches_of(self.manifest.places(part))).collect();
        let mut loader =
            Loader::start(dataset.clone(), data, &worker_program()?, ranges.into_iter())?;
        let normalisation = Normalisation::new(data.mean, data.std, device);
        let all = parts.iter().map(|&part| self.manifest.places(part)).map(|it| it.end - it.start);
        let phase = Phase::begin("features", Some(all.sum()));
        // A part is written while the next one is computed.
        let (out, format) = (&self.job.out, self.job.format);
        let written = thread::scope(|scope| {
            let (to_disk, from_here) = sync_channel::<Part>(1);
            let disk = scope
                .spawn(move || from_here.into_iter().try_for_each(|part| part.write(out, format)));
            let mut seen = Some(0);
            for &number in parts {
                let part =
                    self.part(number, dataset, &mut loader, &normalisation, &phase, &batches_of)?;
                let Some(part) = part else {
                    seen = None;
                    break;
                };
                let places = self.manifest.places(number);
                seen = seen.map(|seen| seen + places.end - places.start);
                if to_disk.send(part).is_err() {
                    break;
                }
            }
            drop(to_disk);
            disk.join().map_err(|_| anyhow!("the thread that writes parts has ended"))??;
            Ok(seen)
        });
        phase.finish();
        written
    }

    /// The features of a part; none, where an end was asked for.
    fn part<I: Iterator<Item = std::ops::Range<u64>>>(
        &self,
        number: u64,
        dataset: &Dataset,
        loader: &mut Loader,
        normalisation: &Normalisation,
        phase: &Phase,
        batches_of: &dyn Fn(std::ops::Range<u64>) -> I,
    ) -> Result<Option<Part>> {
        let places = self.manifest.places(number);
        let names = dataset.members(places.clone())?;
        let mut gathered = Gathered::new(self.job.store.kind());
        let mut rows = Vec::new();
        for range in batches_of(places.clone()) {
            let batch = loader.next_batch()?.context("the images ended early")?;
            ensure!(batch.positions == range, "the images lost their order");
            let seen: Vec<i64> = (0..)
                .zip(&batch.images)
                .filter_map(|(row, image)| image.is_some().then_some(row))
                .collect();
            self.add(&batch, &seen, normalisation, &mut gathered)?;
            let bytes = batch.images();
            let bytes_of_image = bytes.len() / batch.labels.len();
            for row in seen.into_iter().map(|row| row as usize) {
                let position = range.start + row as u64;
                let member = &names[(position - places.start) as usize];
                rows.push(Row {
                    position,
                    key: member.name.clone(),
                    shard: dataset.shard(member.shard).to_string(),
                    label: batch.labels[row],
                    hash: crate::eval::hash(&bytes[row * bytes_of_image..][..bytes_of_image]),
                });
            }
            phase.advance(range.end - range.start);
            status::beat();
            self.group.check()?;
            if self.group.is_asked_to_stop() {
                info!("stopping; the part that was begun is left out");
                return Ok(None);
            }
        }
        let tensors = guard(|| Ok(gathered.finish(&self.manifest.shapes())))?;
        Ok(Some(Part { number, tensors, rows }))
    }

    /// Adds the features of these rows of a batch.
    fn add(
        &self,
        batch: &Batch,
        rows: &[i64],
        normalisation: &Normalisation,
        gathered: &mut Gathered,
    ) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let Self { job, encoder, manifest, group } = self;
        let (count, side) = (batch.labels.len() as i64, encoder.image_size as i64);
        let compute = job.measuring.precision.kind();
        guard(|| {
            let colours = upload(batch.images(), &[count, side, side, 3], group.device())?;
            let rows = upload(rows, &[rows.len() as i64], group.device())?;
            let images = normalisation.apply(&colours.index_select(0, &rows));
            tch::no_grad(|| {
                let tokens = encoder.model.forward(&Input::whole(images), compute);
                let pooled = encoder.model.pooled(&tokens);
                let is_finite = pooled.isfinite().all().int64_value(&[]) == 1;
                ensure!(
                    is_finite,
                    "the encoder gives numbers that are not finite: are its weights damaged?"
                );
                gathered.add(POOLED, &pooled);
                if manifest.tokens.is_empty() {
                    return Ok(());
                }
                let tokens = encoder.model.normalise(tokens);
                let in_shape = |tensor: Tensor, shape: &[i64]| {
                    tensor.reshape([&[pooled.size()[0]], shape].concat())
                };
                for (name, shape) in manifest.shapes().iter().skip(1) {
                    let tensor = if *name == CLASS { tokens.class() } else { tokens.patches() };
                    gathered.add(name, &in_shape(tensor, shape));
                }
                Ok(())
            })
        })
    }
}
