//! Encoders of a run's checkpoints, written for other software.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::artifacts::{Holds, paths};
use crate::config::{ConfigError, DataConfig};
use crate::encoders::{self, EncoderSpec, EncoderWeights, StoredEncoder};
use crate::tasks::{self, TaskConfig};
use crate::train::checkpoint::{self, Checkpoint};
use crate::weights::{Preprocessing, Strangers};

/// An encoder that can be exported: its weights, what it holds, and what its images are normalised by.
pub type Source = (EncoderWeights, StoredEncoder, Preprocessing);

/// Writes every encoder of the newest checkpoint, which is the state just trained, in the formats
/// that the configuration asks for.
pub(super) fn export_all(config: &dyn TaskConfig, checkpoint: &Checkpoint) -> Result<()> {
    let train = config.train();
    if train.export.formats.is_empty() {
        return Ok(());
    }
    let preprocessing = seen_by(checkpoint, &train.data);
    for trained in config.encoders() {
        let file = checkpoint.weights(&trained.name)?;
        let weights = EncoderWeights::of_trainee(file, trained.model.family)?;
        let encoder = measured(&weights, &trained.model, &train.data)?;
        let out = paths::export(&train.run.dir, &trained.name);
        encoders::export(
            &weights,
            &encoder,
            preprocessing,
            &train.export.formats,
            false,
            (&out, Strangers::Keep),
        )
        .with_context(|| format!("cannot export `{}`", trained.name))?;
    }
    Ok(())
}

/// The configuration of the run in the directory `run`.
///
/// # Errors
/// It is no run's directory, or its configuration cannot be read.
pub(super) fn config_of(run: &Path) -> Result<Box<dyn TaskConfig>, ConfigError> {
    let file = paths::config(run);
    if run.exists() && !file.is_file() {
        let way_out = match EncoderWeights::open(run).is_ok() {
            true => format!("; for the weights that are there use --weights {}", run.display()),
            false => String::new(),
        };
        let message = format!(
            "{} is no run's directory, which has a config.toml in it{way_out}",
            run.display()
        );
        return Err(ConfigError { file: PathBuf::new(), key: "--run".into(), message });
    }
    tasks::load(&file, &[])
}

/// The weights of an encoder that was trained in the run directory `run`, with what its configuration
/// says of it. A run of one encoder needs no `name`; without a `step` it is the newest checkpoint's.
///
/// # Errors
/// The run has no such encoder or no such checkpoint, or its files are damaged.
pub fn encoder_of_run(run: &Path, name: Option<&str>, step: Option<u64>) -> Result<Source> {
    let config = config_of(run)?;
    let encoder = &config.encoders()[place_in_run(&*config, name)?];
    let checkpoint = checkpoint_of_run(run, step)?;
    let weights =
        EncoderWeights::of_trainee(checkpoint.weights(&encoder.name)?, encoder.model.family)?;
    let stored = measured(&weights, &encoder.model, &config.train().data)?;
    ensure!(
        stored.spec == encoder.model,
        "{} holds an encoder of {}, but the run's config says {}",
        weights.file.path().display(),
        stored.spec,
        encoder.model
    );
    Ok((weights, stored, seen_by(&checkpoint, &config.train().data)))
}

/// How the images were normalised that `checkpoint` was trained on, which is what it says; `data` is of the run as
/// it is configured now.
fn seen_by(checkpoint: &Checkpoint, data: &DataConfig) -> Preprocessing {
    let settings = &checkpoint.manifest.identity.settings;
    let noted = |key: &str| serde_json::from_str(settings.get(key)?).ok();
    match (noted("data.mean"), noted("data.std")) {
        (Some(mean), Some(std)) => Preprocessing { mean, std },
        _ => preprocessing(data),
    }
}

/// The weights at `path`, with what stands beside them; `heads` are asked for.
///
/// # Errors
/// They cannot be read, nothing tells the number of heads, or it is not the one that is asked for.
pub fn encoder_at(path: &Path, heads: Option<usize>) -> Result<Source> {
    let weights = EncoderWeights::open(path)?;
    let of_run = heads_in_checkpoint(path);
    if let (Some(own), Some(asked)) = (of_run, heads) {
        ensure!(
            own == asked,
            "{}: {asked} attention heads are asked for, but the run that it is a checkpoint of has {own}",
            path.display()
        );
    }
    let stored = weights.measure(heads.or(of_run))?;
    Ok((weights, stored, Preprocessing::beside(&encoders::located(path)?)?))
}

/// How many heads the run says that the encoder has whose weights `path` is, a file of one of its checkpoints.
fn heads_in_checkpoint(path: &Path) -> Option<usize> {
    let file = path.file_name()?.to_str()?;
    let manifest = Checkpoint::open_unverified(path.parent()?).ok()?.manifest;
    let is_own = |name: &&str| manifest.files_of(name, Holds::Weights).contains(&file);
    let name = format!("{:?}", manifest.trainees().into_iter().find(is_own)?);
    let settings = &manifest.identity.settings;
    let is_named = |(key, value): &(&String, &String)| key.ends_with(".name") && **value == name;
    let table = settings.iter().find(is_named)?.0.strip_suffix(".name")?;
    settings.get(&format!("{table}.model.heads"))?.parse().ok()
}

/// What a trainee's weights hold, which the configuration completes where no tensor tells it.
fn measured(
    weights: &EncoderWeights,
    model: &EncoderSpec,
    data: &DataConfig,
) -> Result<StoredEncoder> {
    let stored = weights.measure_trainee(model)?;
    Ok(match model.family.stored_grid(model, &weights.file) {
        0 => StoredEncoder { image_size: data.input_size, ..stored },
        _ => stored,
    })
}

/// The place, in the configuration of a run, of the encoder of this name; a run of one needs none.
///
/// # Errors
/// There is none; the error lists those that there are.
pub(super) fn place_in_run(
    config: &dyn TaskConfig,
    name: Option<&str>,
) -> Result<usize, ConfigError> {
    let names: Vec<&str> = config.encoders().iter().map(|one| one.name.as_str()).collect();
    let place = match name {
        None if names.len() == 1 => Some(0),
        _ => names.iter().position(|one| Some(*one) == name),
    };
    place.ok_or_else(|| {
        let known = names.join(", ");
        let message = match name {
            None => format!("is missing; the run has {known}"),
            Some(name) => format!("the run has no student `{name}`; it has {known}"),
        };
        ConfigError { file: PathBuf::new(), key: "--student".into(), message }
    })
}

/// The checkpoint of this step of the run in `run`, or its newest one.
///
/// # Errors
/// There is none, or it is damaged.
pub(super) fn checkpoint_of_run(run: &Path, step: Option<u64>) -> Result<Checkpoint> {
    match step {
        Some(step) => Checkpoint::open(&paths::checkpoint(run, step)),
        None => checkpoint::newest(run)?
            .with_context(|| format!("{} holds no checkpoint yet", run.display())),
    }
}

pub(super) fn preprocessing(data: &DataConfig) -> Preprocessing {
    Preprocessing { mean: data.mean, std: data.std }
}
