//! `distill --config FILE` and what it has in common with other trainings: their arguments.

use std::path::PathBuf;

use anyhow::Result;

use crate::config::ConfigError;
use crate::run::distill::Distilling;
use crate::run::training::{self, Training};
use crate::tasks::TaskConfig;
use crate::train::run_directory::Resume;

#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    /// What to train, on what, how: a TOML file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Override a key of the config, for example data.batch_size=32 or optimizer.learning_rate=1e-4
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,
    /// Where to start: `auto` continues from the run's newest whole checkpoint, `never` moves an
    /// earlier run aside and starts again, a path continues from that checkpoint folder
    #[arg(long, value_name = "auto|never|PATH", default_value = "auto", requires = "config")]
    resume: Resume,
    /// Check config, shards and weights, say what would be trained, and stop
    #[arg(long, requires = "config")]
    dry_run: bool,
}

/// The config that the arguments name.
///
/// # Errors
/// They name none, or it cannot be used.
pub fn load<C: TaskConfig>(args: &TrainArgs) -> Result<C, ConfigError> {
    let file = args.config.as_deref().ok_or_else(|| ConfigError {
        file: PathBuf::new(),
        key: "--config".into(),
        message: "is missing; name a TOML file, such as configs/quickstart.toml".into(),
    })?;
    C::load(file, &args.set)
}

/// Trains students, exports them, and says what came out.
///
/// # Errors
/// What the user has to know, in a line.
pub fn run(args: &TrainArgs) -> Result<u8> {
    run_task::<Distilling>(args)
}

/// Runs the task `T` as the arguments say.
///
/// # Errors
/// What the user has to know, in a line.
pub fn run_task<T: Training>(args: &TrainArgs) -> Result<u8> {
    training::run::<T>(&load(args)?, &args.resume, args.dry_run)
}
