//! `distill pretrain --score`: how hard images are for a trained autoencoder, in the form that curation
//! reads.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tch::Device;
use tracing::{info, warn};

use super::device;
use super::opening::opening;
use super::worker_program::worker_program;
use crate::config::DataConfig;
use crate::data::curation::{Scores, scores_path, write_scores};
use crate::data::source::{ShardAddress, Sources};
use crate::data::{Batch, Dataset, EvaluationPass, Loader, Member};
use crate::dist::{RankInfo, environment};
use crate::draws::{Draws, Purpose};
use crate::durable;
use crate::native::{guard, upload};
use crate::nn::{Mask, Normalisation};
use crate::tasks::pretrain::{Autoencoder, PretrainConfig};
use crate::train::checkpoint::{self, Checkpoint};
use crate::train::explain_memory;
use crate::train::objective::Objective;
use crate::ui::screen::Phase;

/// Random stream of the masks that images are scored with.
const SCORE_STREAM: u64 = u32::MAX as u64;

/// Beside the scores: what made them.
const ORIGIN: &str = "scored-by.json";

/// Scores every image of the shards that `patterns` name and writes one file a shard under
/// `json_root`. Shards that have a file are left alone, so a scoring that was interrupted goes on. Under
/// a launcher each process takes its share of the shards, and opens only that.
///
/// # Errors
/// The run has no checkpoint, shards cannot be read, two would have one file, the files that are there
/// were made by other weights, or the disk is full.
pub fn run(config: &PretrainConfig, patterns: &[String], json_root: &Path) -> Result<()> {
    let rank_info = environment::of_this_process()?.unwrap_or_else(RankInfo::alone);
    let device = device::choose(&config.train.run, &rank_info)?;
    // Raw shards have more bad images than a training set: they are counted, and have no scores.
    let data = DataConfig { curation: None, max_failed_share: 1.0, ..config.train.data.clone() };
    let sources = Arc::new(Sources::new(&data)?);
    let shards = sources.expand(patterns, "--score")?;
    require_files_of_their_own(&shards, json_root)?;
    let checkpoint = checkpoint::newest(&config.train.run.dir)?.with_context(|| {
        format!(
            "{} has no checkpoint to score with: run the same command without --score first",
            config.train.run.dir.display()
        )
    })?;
    Origin::from_checkpoint(config, &checkpoint).require_same(json_root)?;
    let own = shards.into_iter().skip(rank_info.rank).step_by(rank_info.world_size);
    let (done, left): (Vec<_>, Vec<_>) =
        own.partition(|shard| scores_path(json_root, shard).is_file());
    if !done.is_empty() {
        info!("{} shards have their scores already", done.len());
    }
    if left.is_empty() {
        return Ok(());
    }
    let pass = EvaluationPass { measure: true, ..EvaluationPass::WHOLE };
    let dataset = opening("opening shards", |progress| {
        Dataset::evaluation_from_shards(&data, sources, &left, pass, progress)
    })?;
    let scored = guard(|| {
        let scorer = Scorer::load(config, &checkpoint, device)?;
        scorer.score(&Arc::new(dataset), &data, json_root)
    });
    scored.map_err(|error| explain_memory(error, &config.train))
}

/// Refuses two shards whose scores would go to one file.
fn require_files_of_their_own(shards: &[ShardAddress], json_root: &Path) -> Result<()> {
    let mut owners: HashMap<PathBuf, &ShardAddress> = HashMap::new();
    for shard in shards {
        let path = scores_path(json_root, shard);
        if let Some(other) = owners.insert(path, shard) {
            bail!(
                "{other} and {shard} have the same folder and name, which their scores go by: score \
                 them into two folders"
            );
        }
    }
    Ok(())
}

/// All that scores depend on, beside the image.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Origin {
    /// See [`Checkpoint::digest`].
    weights: String,
    step: u64,
    seed: u64,
    input_size: usize,
    mask_ratio: f64,
    mask_grid: usize,
}

impl Origin {
    fn from_checkpoint(config: &PretrainConfig, checkpoint: &Checkpoint) -> Self {
        let PretrainConfig { train, encoder, .. } = config;
        Self {
            weights: checkpoint.digest(),
            step: checkpoint.manifest.step,
            seed: train.seed,
            input_size: train.data.input_size,
            mask_ratio: encoder.mask_ratio,
            mask_grid: encoder.mask_grid,
        }
    }

    /// Notes this origin in `json_root`, or finds it there: one folder has scores of one kind.
    fn require_same(&self, json_root: &Path) -> Result<()> {
        let path = json_root.join(ORIGIN);
        if let Ok(text) = std::fs::read(&path) {
            let there: Self = serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged", path.display()))?;
            ensure!(
                there == *self,
                "{} holds scores by other weights or settings (step {}, this checkpoint's is {}): name \
                 another folder, or delete that one",
                json_root.display(),
                there.step,
                self.step
            );
            return Ok(());
        }
        std::fs::create_dir_all(json_root)
            .with_context(|| format!("cannot create {}", json_root.display()))?;
        durable::write(&path, &serde_json::to_vec_pretty(self)?)
    }
}

/// A trained autoencoder and what it needs to look at images.
struct Scorer {
    autoencoder: Autoencoder,
    normalisation: Normalisation,
    mask: Mask,
    seed: u64,
    image_size: i64,
    device: Device,
}

impl Scorer {
    fn load(config: &PretrainConfig, checkpoint: &Checkpoint, device: Device) -> Result<Self> {
        let PretrainConfig { train, encoder, .. } = config;
        let autoencoder = Autoencoder::empty(config, device, train.run.precision.kind());
        let weights = checkpoint.weights(&encoder.name)?;
        weights.load_into(autoencoder.trainees()[0].parameters.named(), |_| false)?;
        let grid_size = train.data.input_size / encoder.model.patch_size;
        let mask = encoder.mask(grid_size).context("the encoder has no mask")?;
        info!(step = checkpoint.manifest.step, "scoring with {}", checkpoint.folder.display());
        Ok(Self {
            autoencoder,
            normalisation: Normalisation::new(train.data.mean, train.data.std, device),
            mask,
            seed: train.seed,
            image_size: train.data.input_size as i64,
            device,
        })
    }

    /// Goes through the shards of `dataset` one after another.
    fn score(&self, dataset: &Arc<Dataset>, config: &DataConfig, json_root: &Path) -> Result<()> {
        let (most, owned) = (config.batch_size, dataset.clone());
        let shards = 0..dataset.shard_count();
        let ranges = shards.clone().flat_map(move |s| batches(owned.samples_of_shard(s), most));
        let mut loader = Loader::start(dataset.clone(), config, &worker_program()?, ranges)?;
        let phase = Phase::begin("scoring", Some(dataset.sample_count()));
        for shard in shards {
            let samples = dataset.samples_of_shard(shard);
            let names = dataset.members(samples.clone())?;
            let mut scores = BTreeMap::new();
            for range in batches(samples.clone(), most) {
                let batch = loader.next_batch()?.context("the pass ended early")?;
                ensure!(batch.positions == range, "the pass lost its order");
                let rows = range.start - samples.start..range.end - samples.start;
                let names = &names[rows.start as usize..rows.end as usize];
                self.score_batch(&batch, rows, names, &mut scores)?;
                phase.advance(range.end - range.start);
            }
            write_scores(json_root, dataset.shard(shard), &scores)?;
        }
        phase.finish();
        let failed = dataset.failure_counts().failed;
        if failed > 0 {
            warn!("{failed} images do not decode and have no scores");
        }
        Ok(())
    }

    /// Adds the scores of a batch, which holds these `rows` of its shard. An image's mask follows from
    /// its row, so which other shards are scored changes nothing.
    fn score_batch(
        &self,
        batch: &Batch,
        rows: Range<u64>,
        members: &[Member],
        scores: &mut BTreeMap<String, Scores>,
    ) -> Result<()> {
        let count = members.len() as i64;
        let images =
            upload(batch.images(), &[count, self.image_size, self.image_size, 3], self.device)?;
        let draw =
            |row| self.mask.draw(&mut Draws::new(self.seed, Purpose::Mask, SCORE_STREAM, row));
        let keep: Vec<i64> = rows.flat_map(draw).collect();
        let keep = upload(&keep, &[count, self.mask.kept() as i64], self.device)?;
        let images = self.normalisation.apply(&images);
        let losses: Vec<f32> = Vec::try_from(self.autoencoder.losses(&images, &keep))?;
        for ((member, image), loss) in members.iter().zip(&batch.images).zip(losses) {
            // One that does not decode has no scores, and is not kept.
            let Some(image) = image else { continue };
            let name = &member.name;
            ensure!(loss.is_finite(), "the loss of {name} is {loss}: are the weights damaged?");
            let one = Scores {
                histogram_score: image.histogram_entropy,
                height: Some(image.height.into()),
                width: Some(image.width.into()),
                mae_loss: Some(loss.into()),
            };
            scores.insert(name.clone(), one);
        }
        Ok(())
    }
}

/// `positions` in pieces of at most `most`.
fn batches(positions: Range<u64>, most: usize) -> impl Iterator<Item = Range<u64>> {
    let Range { start, end } = positions;
    (start..end).step_by(most).map(move |first| first..end.min(first + most as u64))
}
