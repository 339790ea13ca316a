//! Depth and segmentation heads, trained and tested on a frozen encoder.

mod config;
mod figures;
mod ground;
mod log;
mod outcome;
mod plan;
mod session;
mod store;
mod test_pass;

use std::path::PathBuf;

use anyhow::{Context, Error, Result, ensure};
use tch::Device;

pub use config::{HeadConfig, HeadTraining, HeadsConfig, TestConfig};
pub use figures::{EpochFigures, HeadResult};
pub(super) use figures::{as_results, published};
pub use outcome::HeadsOutcome;

use super::options::Options;
use super::setup;
use super::worker_program::worker_program;
use crate::artifacts::paths;
use crate::config::ConfigError;
use crate::dist::ProcessGroup;
use crate::train::checkpoint::Checkpoint;
use crate::train::is_out_of_memory;
use ground::Ground;

/// Trains and tests the heads of `config`, or goes on with that. Under a launcher all its processes call
/// this.
///
/// # Errors
/// Data, weights, device, disk or another process fail.
pub fn train_heads(config: &HeadsConfig, options: &Options) -> Result<HeadsOutcome> {
    let work = |group: &ProcessGroup, device| train_in_group(config, options, group, device);
    let outcome = setup::with_group(&config.train(), |_| Ok(()), explain_memory, work)?;
    Ok(outcome.unwrap_or(HeadsOutcome::Stopped(0)))
}

/// Adds what to lower, where `error` is that the device has no memory left.
pub(super) fn explain_memory(error: Error) -> Error {
    if !is_out_of_memory(&error) {
        return error;
    }
    error.context(
        "out of memory: lower test.window_batch, train fewer heads at once, start more processes (the \
         training stays the same), or use run.precision = \"bf16\"",
    )
}

/// [`train_heads`] within a group whose processes have met, on its `device`.
///
/// # Errors
/// Those of [`train_heads`].
pub(super) fn train_in_group(
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
    let dir = config.run.dir.clone();
    let settle = &mut |checkpoint: Option<&Checkpoint>| {
        // Rank 0 has the word: after it the file is this run's.
        if checkpoint.is_some() && group.is_first() {
            require_same(config)?;
        }
        Ok((String::new(), config.to_toml()))
    };
    let (run_directory, checkpoint) = setup::open_directory(dir, &options.resume, group, settle)?;
    let compute = config.run.precision.kind();
    let keys = ["encoder.weights", "training.crop_size"];
    let side = Some(config.training.crop_size);
    let encoder = config.encoder.load(keys, side, device, compute)?;
    let program = options.worker_program.clone().map_or_else(worker_program, Ok)?;
    let ground = Ground { config, group, encoder: &encoder, set: &set, worker_program: &program };
    let outcome = session::train(&ground, checkpoint.as_ref())?;
    if let (HeadsOutcome::Finished(results), Some(_)) = (&outcome, run_directory) {
        figures::write(config, &encoder.name, results)?;
    }
    Ok(outcome)
}

/// A head goes on only on what it was begun with: figures of two encoders must not be taken for one's.
fn require_same(config: &HeadsConfig) -> Result<()> {
    let path = paths::config(&config.run.dir);
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
