//! Depth and segmentation heads, trained and tested on a frozen encoder.

mod config;
mod figures;
mod session;
mod store;
mod test_pass;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tch::Device;

pub use config::{HeadConfig, HeadTraining, HeadsConfig, TestConfig};
pub use figures::{EpochFigures, HeadResult};

use super::training::Options;
use super::worker_program::worker_program;
use super::{device, setup};
use crate::config::{ConfigError, DataConfig};
use crate::dist::{ProcessGroup, RankInfo, StoppedEarly, environment};
use crate::native::guard;
use crate::train::checkpoint::Checkpoint;
use crate::train::run_directory::RunDirectory;
use crate::train::{explain_memory, signals};
use session::{Ended, Ground};

/// How a training of heads ended that did not fail.
#[derive(Debug)]
pub enum HeadsOutcome {
    /// Of several processes the first one alone has the results.
    Finished(Vec<HeadResult>),
    /// A signal asked for an end after so many updates; the same command goes on.
    Stopped(u64),
}

/// What rank 0 publishes about the run.
#[derive(Serialize, Deserialize)]
struct Start {
    checkpoint: Option<PathBuf>,
}

/// Trains and tests the heads of `config`, or goes on with that. Under a launcher all its processes call
/// this.
///
/// # Errors
/// Data, weights, device, disk or another process fail.
pub fn train_heads(config: &HeadsConfig, options: &Options) -> Result<HeadsOutcome> {
    let rank_info = environment::of_this_process()?;
    setup::answer_quit(rank_info.as_ref())?;
    let device = device::choose(&config.run, &rank_info.clone().unwrap_or_else(RankInfo::alone))?;
    signals::install()?;
    let train = config.train();
    let group = match setup::join(rank_info, &train, device) {
        Ok(group) => group,
        Err(error) if error.is::<StoppedEarly>() => return Ok(HeadsOutcome::Stopped(0)),
        Err(error) => return Err(error),
    };
    let outcome = guard(|| train_in_group(config, options, &group, device));
    let advice = DataConfig { batch_size: config.training.global_batch_size, ..train.data.clone() };
    let train = crate::config::TrainConfig { data: advice, ..train };
    match outcome.map_err(|error| explain_memory(error, &train)) {
        Ok(outcome) => group.leave().map(|()| outcome),
        Err(error) => {
            group.announce(&error);
            Err(error)
        }
    }
}

fn train_in_group(
    config: &HeadsConfig,
    options: &Options,
    group: &ProcessGroup,
    device: Device,
) -> Result<HeadsOutcome> {
    let losses = config.training.global_batch_size / config.training.images_per_loss;
    ensure!(
        group.world_size() <= losses,
        "{} processes for {losses} losses of an update: lower training.images_per_loss, or start fewer",
        group.world_size()
    );
    let set = config.data.open()?;
    let is_depth = matches!(set.task, crate::data::pairs::PairTask::Depth { .. });
    let (run_directory, checkpoint) = open_run(config, options, group)?;
    let compute = config.run.precision.kind();
    let keys = ["encoder.weights", "training.crop_size"];
    let side = Some(config.training.crop_size);
    let encoder = config.encoder.load(keys, side, device, compute)?;
    let program = options.worker_program.clone().map_or_else(worker_program, Ok)?;
    let ground = Ground { config, group, encoder: &encoder, set: &set, worker_program: &program };
    let ended = session::train(&ground, checkpoint.as_ref())?;
    let Ended::Finished(results) = ended else {
        let Ended::Stopped(step) = ended else { unreachable!("there are two ends") };
        return Ok(HeadsOutcome::Stopped(step));
    };
    if run_directory.is_some() {
        figures::write(config, is_depth, &encoder.name, &results)?;
    }
    Ok(HeadsOutcome::Finished(results))
}

/// Opens the run's directory, on rank 0, and the checkpoint to start from, on all.
fn open_run(
    config: &HeadsConfig,
    options: &Options,
    group: &ProcessGroup,
) -> Result<(Option<RunDirectory>, Option<Checkpoint>)> {
    if group.is_first() {
        let is_restart = group.rank_info().rendezvous.attempt > 0;
        let (run, checkpoint) =
            RunDirectory::open(config.run.dir.clone(), &options.resume, is_restart)?;
        if checkpoint.is_some() {
            require_same(config)?;
        }
        run.write_config(&config.to_toml())?;
        let folder = checkpoint.as_ref().map(|checkpoint| checkpoint.folder.clone());
        group.publish("start", &serde_json::to_vec(&Start { checkpoint: folder })?)?;
        return Ok((Some(run), checkpoint));
    }
    let start: Start = serde_json::from_slice(&group.wait_for("start")?)
        .context("rank 0 runs another version of distill")?;
    let checkpoint = start.checkpoint.as_deref().map(Checkpoint::open_unverified).transpose()?;
    Ok((None, checkpoint))
}

/// A head goes on only on what it was begun with: figures of two encoders must not be taken for one's.
fn require_same(config: &HeadsConfig) -> Result<()> {
    let path = crate::artifacts::paths::config(&config.run.dir);
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) };
    let before: toml::Table = text.parse().with_context(|| path.display().to_string())?;
    let now: toml::Table = config.to_toml().parse()?;
    for key in ["data", "encoder", "heads", "training", "seed"] {
        if before.get(key) != now.get(key) {
            return Err(ConfigError {
                file: PathBuf::new(),
                key: key.into(),
                message: format!(
                    "the run in {} was begun with another `{key}`; choose another run.dir, or --resume \
                     never, which moves it aside",
                    config.run.dir.display()
                ),
            }
            .into());
        }
    }
    Ok(())
}
