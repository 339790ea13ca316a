//! What heads are trained on a frozen encoder, on what, how.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::config::{
    Check, CheckpointConfig, ConfigError, DataConfig, DistributedConfig, KeyError, LogConfig,
    OptimizerConfig, RunConfig, TrainConfig, read_table, read_tables, require,
};
use crate::data::pairs::{KnownSet, KnownSource, OwnSet, OwnTask, PairSource};
use crate::eval::dense::HeadKind;
use crate::run::frozen_encoder::EncoderSource;

/// A training of heads, every default resolved.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeadsConfig {
    pub seed: u64,
    pub run: RunConfig,
    pub data: PairSource,
    pub encoder: EncoderSource,
    pub heads: Vec<HeadConfig>,
    pub training: HeadTraining,
    pub test: TestConfig,
    pub checkpoint: CheckpointConfig,
    pub distributed: DistributedConfig,
    pub log: LogConfig,
}

/// A head to be trained.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeadConfig {
    /// Its name in metrics, checkpoints and results.
    pub name: String,
    pub kind: HeadKind,
    pub learning_rate: f64,
}

/// How heads are trained.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeadTraining {
    pub epochs: u64,
    /// Images of one update, over all processes.
    pub global_batch_size: usize,
    /// Images whose pixels make one loss together; the losses of an update are averaged.
    pub images_per_loss: usize,
    /// Side of training squares and of test windows, in pixels.
    pub crop_size: usize,
    /// Share of all updates in which the rate rises.
    pub warmup: f64,
    /// Exponent of the rate's decay.
    pub power: f64,
    pub weight_decay: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    /// Worker processes that decode; 0 takes one per core.
    pub workers: usize,
}

/// How heads are tested.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TestConfig {
    /// Epochs between test passes; the last epoch always has one.
    pub every: u64,
    /// Windows in one pass of the encoder.
    pub window_batch: usize,
    /// Memory of a process for features of test windows, in 10⁹ bytes.
    pub memory_gigabytes: f64,
    /// Disk space of a process for those that memory has no room for, in 10⁹ bytes.
    pub disk_gigabytes: f64,
}

impl Default for TestConfig {
    fn default() -> Self {
        Self { every: 1, window_batch: 32, memory_gigabytes: 8.0, disk_gigabytes: 100.0 }
    }
}

/// The tables as a file has them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    #[serde(default)]
    seed: u64,
    run: RunConfig,
    encoder: EncoderSource,
    heads: Vec<HeadTable>,
    #[serde(default)]
    training: TrainingTable,
    #[serde(default)]
    test: TestConfig,
    #[serde(default)]
    checkpoint: CheckpointConfig,
    #[serde(default)]
    distributed: DistributedConfig,
    #[serde(default)]
    log: LogConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadTable {
    kind: HeadKind,
    name: Option<String>,
    learning_rate: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TrainingTable {
    epochs: Option<u64>,
    global_batch_size: Option<usize>,
    images_per_loss: Option<usize>,
    crop_size: Option<usize>,
    warmup: Option<f64>,
    power: Option<f64>,
    weight_decay: Option<f64>,
    betas: Option<[f64; 2]>,
    eps: Option<f64>,
    workers: Option<usize>,
}

/// The release's settings where they differ between data sets: global batch, images of a loss, rates of
/// the linear and the DPT head, share of warm-up.
struct Recipe {
    global_batch_size: usize,
    images_per_loss: usize,
    rates: [f64; 2],
    warmup: f64,
}

impl Recipe {
    fn of(data: &PairSource) -> Self {
        let recipe = |global_batch_size, images_per_loss, rates, warmup| Self {
            global_batch_size,
            images_per_loss,
            rates,
            warmup,
        };
        let rates = [2e-4, 1e-4];
        match data {
            PairSource::Known(known) => match known.dataset {
                KnownSet::Nyuv2 | KnownSet::Kitti => recipe(32, 4, rates, 0.1),
                KnownSet::Ade20k => recipe(16, 2, rates, 0.0),
                KnownSet::Pascal => recipe(32, 4, rates, 0.0),
                KnownSet::Loveda => recipe(8, 1, [4e-4, 2e-4], 0.0),
            },
            PairSource::Own(OwnSet { targets: OwnTask::Depth { .. }, .. }) => {
                recipe(32, 4, rates, 0.1)
            }
            PairSource::Own(_) => recipe(16, 2, rates, 0.0),
        }
    }
}

impl HeadsConfig {
    /// Reads `file` with `overrides` of the form `training.epochs=20`.
    ///
    /// # Errors
    /// The file cannot be read, a key is unknown or of the wrong type, or two values contradict each
    /// other.
    pub fn load(file: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        Self::from_table(read_table(file, overrides)?).map_err(|(key, message)| ConfigError {
            file: file.to_path_buf(),
            key,
            message,
        })
    }

    /// The configuration of these tables.
    ///
    /// # Errors
    /// Those of [`Self::load`].
    pub fn from_table(mut table: Table) -> Result<Self, KeyError> {
        let data = match table.remove("data") {
            Some(Value::Table(data)) => read_data(data)?,
            Some(other) => return Err(("data".into(), format!("found {other}, expected a table"))),
            None => return Err(("data".into(), "is missing".into())),
        };
        let recipe = Recipe::of(&data);
        let Tables { seed, run, encoder, heads, training, test, checkpoint, distributed, log } =
            read_tables(table)?;
        let config = Self {
            seed,
            run,
            encoder,
            heads: named(heads, &recipe)?,
            training: training.resolve(&recipe),
            data,
            test,
            checkpoint,
            distributed,
            log,
        };
        config.check()?;
        Ok(config)
    }

    /// As TOML, every default resolved.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every config value has a TOML form")
    }

    fn check(&self) -> Check {
        let HeadTraining { epochs, global_batch_size, images_per_loss, crop_size, warmup, .. } =
            self.training;
        require(epochs > 0, "training.epochs", || "found 0, expected at least 1".into())?;
        require(
            images_per_loss > 0 && global_batch_size.is_multiple_of(images_per_loss),
            "training.images_per_loss",
            || format!("found {images_per_loss}, expected a divisor of {global_batch_size}"),
        )?;
        require(global_batch_size > 0, "training.global_batch_size", || "found 0".into())?;
        require(crop_size > 0, "training.crop_size", || "found 0, expected pixels".into())?;
        require((0.0..1.0).contains(&warmup), "training.warmup", || {
            format!("found {warmup}, expected a share in [0, 1)")
        })?;
        require(self.checkpoint.keep_best.is_none(), "checkpoint.keep_best", || {
            "heads are tested after each epoch, and the best figures are told: leave it out".into()
        })?;
        require(self.test.every > 0, "test.every", || "found 0, expected epochs".into())?;
        require(self.test.window_batch > 0, "test.window_batch", || "found 0".into())
    }

    /// The optimizer of every head.
    pub fn optimizer(&self) -> OptimizerConfig {
        let HeadTraining { weight_decay, betas, eps, .. } = self.training;
        OptimizerConfig { weight_decay, betas, eps, clip_grad_norm: None, ..Default::default() }
    }

    /// What the parts that every training has in common need to know.
    pub(super) fn train(&self) -> TrainConfig {
        TrainConfig {
            seed: self.seed,
            run: self.run.clone(),
            checkpoint: self.checkpoint.clone(),
            distributed: self.distributed.clone(),
            log: self.log.clone(),
            ..TrainConfig::minimal(PathBuf::new())
        }
    }

    /// How images are read, `batch_size` at a time.
    pub(super) fn images(&self, batch_size: usize) -> DataConfig {
        DataConfig {
            input_size: self.training.crop_size,
            batch_size,
            workers: self.training.workers,
            // A wrong target is no noise: it is named, and the run ends.
            max_failed_share: 0.0,
            ..DataConfig::minimal(Vec::new())
        }
    }
}

/// A known data set, or a description of one's own.
fn read_data(data: Table) -> Result<PairSource, KeyError> {
    let at = |(key, message): KeyError| {
        (if key.is_empty() { "data".into() } else { format!("data.{key}") }, message)
    };
    match data.contains_key("dataset") {
        true => read_tables::<KnownSource>(data).map(PairSource::Known).map_err(at),
        false => read_tables::<OwnSet>(data).map(PairSource::Own).map_err(at),
    }
}

/// Heads with names and rates: each has its kind's name, and its rate where the kind is there twice.
fn named(tables: Vec<HeadTable>, recipe: &Recipe) -> Result<Vec<HeadConfig>, KeyError> {
    require(!tables.is_empty(), "heads", || "found none, expected at least one head".into())?;
    let is_alone = |kind| tables.iter().filter(|table| table.kind == kind).count() == 1;
    let mut heads: Vec<HeadConfig> = Vec::new();
    for (number, HeadTable { kind, name, learning_rate }) in tables.iter().enumerate() {
        let learning_rate =
            learning_rate.unwrap_or(recipe.rates[usize::from(*kind == HeadKind::Dpt)]);
        let own = || match is_alone(*kind) {
            true => kind.name().to_string(),
            false => format!("{}-{learning_rate:e}", kind.name()),
        };
        let name = name.clone().unwrap_or_else(own);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        require(
            !name.is_empty()
                && name.chars().all(plain)
                && heads.iter().all(|head| head.name != name),
            format!("heads.{number}.name"),
            || format!("found `{name}`, expected another name of letters, digits, `-`, `_`, `.`"),
        )?;
        require(learning_rate > 0.0, format!("heads.{number}.learning_rate"), || {
            format!("found {learning_rate}, expected a number above 0")
        })?;
        heads.push(HeadConfig { name, kind: *kind, learning_rate });
    }
    Ok(heads)
}

impl TrainingTable {
    fn resolve(self, recipe: &Recipe) -> HeadTraining {
        HeadTraining {
            epochs: self.epochs.unwrap_or(60),
            global_batch_size: self.global_batch_size.unwrap_or(recipe.global_batch_size),
            images_per_loss: self.images_per_loss.unwrap_or(recipe.images_per_loss),
            crop_size: self.crop_size.unwrap_or(256),
            warmup: self.warmup.unwrap_or(recipe.warmup),
            power: self.power.unwrap_or(0.9),
            weight_decay: self.weight_decay.unwrap_or(0.01),
            betas: self.betas.unwrap_or([0.9, 0.999]),
            eps: self.eps.unwrap_or(1e-8),
            workers: self.workers.unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> Result<HeadsConfig, KeyError> {
        let text = format!(
            "run.dir = \"runs/x\"\nencoder.weights = \"w\"\n\
             data = {{ dataset = \"ade20k\", root = \"d\" }}\n{more}"
        );
        HeadsConfig::from_table(text.parse().unwrap())
    }

    /// The release's settings are the defaults, and what is written is read again.
    #[test]
    fn defaults_are_the_releases() {
        let found = config("heads = [{ kind = \"linear\" }, { kind = \"dpt\" }]").unwrap();
        let rates: Vec<_> =
            found.heads.iter().map(|head| (&*head.name, head.learning_rate)).collect();
        assert_eq!(rates, [("linear", 2e-4), ("dpt", 1e-4)]);
        let HeadTraining { global_batch_size, images_per_loss, warmup, epochs, .. } =
            found.training;
        assert_eq!((global_batch_size, images_per_loss, warmup, epochs), (16, 2, 0.0, 60));
        let again = HeadsConfig::from_table(found.to_toml().parse().unwrap()).unwrap();
        assert_eq!(again, found);
    }

    #[test]
    fn heads_of_one_kind_are_told_apart_by_their_rates() {
        let rates = "heads = [{ kind = \"linear\" }, { kind = \"linear\", learning_rate = 1e-3 }]";
        let names: Vec<_> =
            config(rates).unwrap().heads.into_iter().map(|head| head.name).collect();
        assert_eq!(names, ["linear-2e-4", "linear-1e-3"]);
    }

    #[test]
    fn mistakes_are_named_by_their_key() {
        for (more, key) in [
            ("heads = []", "heads"),
            ("heads = [{ kind = \"linear\" }]\ntraining.epoch = 3", "training"),
            (
                "heads = [{ kind = \"linear\" }]\ntraining.images_per_loss = 3",
                "training.images_per_loss",
            ),
            ("heads = [{ kind = \"linear\", name = \"a/b\" }]", "heads.0.name"),
            (
                "heads = [{ kind = \"linear\" }]\ncheckpoint.keep_best = \"knn.top1\"",
                "checkpoint.keep_best",
            ),
        ] {
            let (found, message) = config(more).unwrap_err();
            assert!(found.starts_with(key), "{found}: {message}");
        }
    }
}
