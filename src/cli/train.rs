//! `distill --config FILE`, and the arguments that every training command takes.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use anyhow::Result;
use tracing::warn;

use super::exit::{DONE, RESUME_ME};
use super::output::print;
use super::summary;
use crate::config::ConfigError;
use crate::run::{self, Options, Outcome, Stop};
use crate::tasks::distill::DistillConfig;
use crate::tasks::{self, TaskConfig};
use crate::train::run_directory::Resume;
use crate::train::signals::Signal;

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
    /// Go on with other settings than the run was trained with until now, which are named
    #[arg(long, requires = "config")]
    accept_changes: bool,
    /// Write a trace of these steps into RUN/profile/, which ui.perfetto.dev opens: what CPU and GPU do, part by
    /// part
    #[arg(long, value_name = "FIRST..LAST", requires = "config", value_parser = steps)]
    profile: Option<RangeInclusive<u64>>,
    /// Check config, shards and weights, say what would be trained, and stop
    #[arg(long, requires = "config")]
    dry_run: bool,
    /// With --dry-run: predict what the run takes of so many GPUs, one a process: memory, time, bytes sent
    #[arg(long, value_name = "N", requires = "dry_run",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    world_size: Option<u32>,
}

impl TrainArgs {
    /// What `--config FILE` alone means.
    pub fn of(file: PathBuf) -> Self {
        Self {
            config: Some(file),
            set: Vec::new(),
            resume: Resume::Auto,
            accept_changes: false,
            profile: None,
            dry_run: false,
            world_size: None,
        }
    }
}

/// The first and the last of some steps.
fn steps(text: &str) -> Result<RangeInclusive<u64>, String> {
    let number = |text: &str| text.parse::<u64>().ok().filter(|&step| step > 0);
    let ends = text.split_once("..").and_then(|(a, b)| Some((number(a)?, number(b)?)));
    let ends = ends.filter(|(first, last)| first <= last);
    ends.map(|(first, last)| first..=last)
        .ok_or_else(|| "expected a first and a last step, from 1, as in 100..103".into())
}

/// The config that the arguments name.
pub fn load<C: TaskConfig>(args: &TrainArgs) -> Result<C, ConfigError> {
    let file = args.config.as_deref().ok_or_else(|| ConfigError {
        file: PathBuf::new(),
        key: "--config".into(),
        message: "is missing; name a TOML file, such as configs/quickstart.toml".into(),
    })?;
    tasks::load_as(file, &args.set)
}

/// Trains students, exports them, and says what came out.
pub fn run(args: &TrainArgs) -> Result<u8> {
    run_task::<DistillConfig>(args)
}

/// Runs the task whose configuration `C` is as the arguments say.
pub fn run_task<C: TaskConfig>(args: &TrainArgs) -> Result<u8> {
    let config: C = load(args)?;
    let accept_changes = args.accept_changes;
    let (resume, profile) = (args.resume.clone(), args.profile.clone());
    let options = Options { resume, accept_changes, profile, worker_program: None };
    if args.dry_run {
        let gpus = args.world_size.map(|gpus| gpus as usize);
        run::plan(&config, &options, gpus, |part| print!("{}", summary::planned(&part)))?;
        return Ok(DONE);
    }
    match run::train(&config, &options)? {
        Outcome::Finished(came_out) => {
            if let Some(came_out) = came_out {
                print(&summary::finished(&config, &came_out))?;
            }
            Ok(DONE)
        }
        Outcome::Stopped { at, signal } => {
            warn_of_stop(at, signal);
            Ok(RESUME_ME)
        }
    }
}

fn warn_of_stop(at: Stop, signal: Option<Signal>) {
    let why = signal.map_or_else(|| "a signal to another rank".into(), |s| s.to_string());
    match at {
        Stop::Start => warn!("stopped before all ranks had joined; the same command continues"),
        Stop::Training { step } => {
            warn!(step, "stopped by {why}; the same command continues from here");
        }
        Stop::Evaluation => {
            // The process that measured says so.
            if signal.is_some() {
                warn!(
                    "stopped by {why} while encoders were measured; the same command goes on with that"
                );
            }
        }
    }
}
