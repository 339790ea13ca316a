//! `distill pretrain --score`: how hard pictures are for a trained autoencoder, in the form that curation
//! reads.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tch::Device;
use tracing::info;

use super::{device, training, worker_program};
use crate::config::{DataConfig, PretrainConfig};
use crate::data::curation::{Scores, scores_path, write_scores};
use crate::data::{Batch, Dataset, EvaluationPass, Loader};
use crate::dist::{Place, environment};
use crate::draws::{Draws, Purpose};
use crate::model::{Mask, Normalisation, kind_of};
use crate::native::{guard, upload};
use crate::objective::Objective;
use crate::objective::pretrain::Autoencoder;
use crate::train::checkpoint::{self, Checkpoint};
use crate::train::explain_memory;
use crate::train::screen::Phase;

/// Draw lane of the masks that pictures are scored with.
const SCORE_LANE: u64 = u32::MAX as u64;

/// Scores every picture of the shards that `patterns` name and writes one file a shard under
/// `json_root`. Shards that have a file are left alone, so a scoring that was interrupted goes on. Under
/// a launcher each process takes its share of the shards.
///
/// # Errors
/// The run has no checkpoint, shards cannot be read, or the disk is full.
pub fn run(config: &PretrainConfig, patterns: &[String], json_root: &Path) -> Result<()> {
    let place = environment::of_this_process()?.unwrap_or_else(Place::alone);
    let device = device::choose(&config.train.run, &place)?;
    let data =
        DataConfig { shards: patterns.to_vec(), curation: None, ..config.train.data.clone() };
    let pass = EvaluationPass { measure: true, ..EvaluationPass::WHOLE };
    let dataset = training::opening(|progress| Dataset::for_evaluation(&data, pass, progress))?;
    let scored = |shard: usize| scores_path(json_root, dataset.shard(shard)).is_file();
    let own = (0..dataset.shard_count()).skip(place.rank).step_by(place.world_size);
    let (done, left): (Vec<usize>, Vec<usize>) = own.partition(|&shard| scored(shard));
    if !done.is_empty() {
        info!("{} shards have their scores already; delete those to have them anew", done.len());
    }
    if left.is_empty() {
        return Ok(());
    }
    let checkpoint = checkpoint::newest(&config.train.run.dir)?.with_context(|| {
        format!(
            "{} has no checkpoint to score with: run the same command without --score first",
            config.train.run.dir.display()
        )
    })?;
    let scorer = guard(|| Scorer::load(config, &checkpoint, device));
    let scorer = scorer.map_err(|error| explain_memory(error, &config.train))?;
    let dataset = Arc::new(dataset);
    guard(|| scorer.score(&dataset, &data, &left, json_root))
        .map_err(|error| explain_memory(error, &config.train))
}

/// A trained autoencoder and what it needs to look at pictures.
struct Scorer {
    autoencoder: Autoencoder,
    normalisation: Normalisation,
    mask: Mask,
    seed: u64,
    side: i64,
    device: Device,
}

impl Scorer {
    fn load(config: &PretrainConfig, checkpoint: &Checkpoint, device: Device) -> Result<Self> {
        let PretrainConfig { train, encoder, .. } = config;
        let autoencoder = Autoencoder::empty(config, device, kind_of(train.run.precision));
        let weights = checkpoint.weights(&encoder.name)?;
        weights.load_into(autoencoder.trainees()[0].parameters.named(), |_| false)?;
        let side = train.data.input_size / encoder.model.patch_size;
        let mask = Mask::of(encoder, side).context("the encoder has no mask")?;
        info!(step = checkpoint.manifest.step, "scoring with {}", checkpoint.folder.display());
        Ok(Self {
            autoencoder,
            normalisation: Normalisation::new(train.data.mean, train.data.std, device),
            mask,
            seed: train.seed,
            side: train.data.input_size as i64,
            device,
        })
    }

    /// Goes through these shards one after another.
    fn score(
        &self,
        dataset: &Arc<Dataset>,
        config: &DataConfig,
        shards: &[usize],
        json_root: &Path,
    ) -> Result<()> {
        let of_shard = |shard: usize| batches(dataset.samples_of_shard(shard), config.batch_size);
        let ranges: Vec<Range<u64>> = shards.iter().flat_map(|&shard| of_shard(shard)).collect();
        let pictures = ranges.iter().map(|range| range.end - range.start).sum();
        let mut loader =
            Loader::start(dataset.clone(), config, &worker_program()?, ranges.into_iter())?;
        let phase = Phase::begin("scoring", Some(pictures));
        for &shard in shards {
            let first = dataset.samples_of_shard(shard).start;
            let mut scores = BTreeMap::new();
            for range in of_shard(shard) {
                let batch = loader.next_batch()?.context("the pass ended early")?;
                ensure!(batch.positions == range, "the pass lost its order");
                self.score_batch(dataset, &batch, first, &mut scores)?;
                phase.advance(range.end - range.start);
            }
            write_scores(json_root, dataset.shard(shard), &scores)?;
        }
        phase.finish();
        Ok(())
    }

    /// Adds the scores of a batch whose shard begins at position `first`. A picture's mask follows from
    /// its place in the shard, so which other shards are scored changes nothing.
    fn score_batch(
        &self,
        dataset: &Dataset,
        batch: &Batch,
        first: u64,
        scores: &mut BTreeMap<String, Scores>,
    ) -> Result<()> {
        let count = batch.pictures.len() as i64;
        let images = upload(batch.images(), &[count, self.side, self.side, 3], self.device)?;
        let keep: Vec<i64> = batch
            .positions
            .clone()
            .flat_map(|position| {
                let row = position - first;
                self.mask.draw(&mut Draws::new(self.seed, Purpose::Mask, SCORE_LANE, row))
            })
            .collect();
        let keep = upload(&keep, &[count, self.mask.kept() as i64], self.device)?;
        let images = self.normalisation.apply(&images);
        let losses: Vec<f32> = Vec::try_from(self.autoencoder.reconstruct(&images, keep).losses)?;
        let members = dataset.members(batch.positions.clone())?;
        for ((member, picture), loss) in members.into_iter().zip(&batch.pictures).zip(losses) {
            // One that does not decode has no scores, and is not kept.
            let Some(picture) = picture else { continue };
            ensure!(
                loss.is_finite(),
                "the loss of {} is {loss}: are the weights sound?",
                member.name
            );
            let one = Scores {
                histogram_score: picture.histogram_entropy,
                height: Some(picture.height.into()),
                width: Some(picture.width.into()),
                mae_loss: Some(loss.into()),
            };
            scores.insert(member.name, one);
        }
        Ok(())
    }
}

/// `positions` in pieces of at most `most`.
fn batches(positions: Range<u64>, most: usize) -> impl Iterator<Item = Range<u64>> {
    let Range { start, end } = positions;
    (start..end).step_by(most).map(move |first| first..end.min(first + most as u64))
}
