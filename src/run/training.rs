//! A training run from its arguments to exported weights: what all tasks have in common.

use std::io::Write;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use tch::Device;
use tracing::{debug_span, info, warn};

use super::evaluation::{self, Interrupted, Trained};
use super::{DONE, RESUME_ME, device, setup, summary};
use crate::config::{ConfigError, TrainConfig};
use crate::data::{Dataset, Loader, RankBatches, ShardProgress};
use crate::dist::{Activity, ProcessGroup, RankInfo, StoppedEarly, environment};
use crate::encoders::{self, EncoderWeights};
use crate::native::guard;
use crate::status;
use crate::tasks::TaskConfig;
use crate::train::checkpoint::{self, Checkpoint, Stream};
use crate::train::objective::Objective;
use crate::train::prefetch::DevicePrefetcher;
use crate::train::run_directory::Resume;
use crate::train::schedule::Schedule;
use crate::train::{Drawing, Outcome, Run, State, explain_memory, signals, train};
use crate::ui::screen::{self, Phase};
use crate::weights::Preprocessing;

/// Where the first process leaves its exit code for the others.
const ENDED: &str = "ended";

/// What a task does its own way.
pub trait Training {
    type Config: TaskConfig + Clone;
    type Objective: Objective;

    /// # Errors
    /// The config asks for something that the device cannot do.
    fn require_abilities(_: &Self::Config, _: Device) -> Result<(), ConfigError> {
        Ok(())
    }

    /// The models with initial weights; those that the config names are read only where training
    /// `starts_anew`.
    ///
    /// # Errors
    /// Weights cannot be read or do not fit, or the device has no memory left.
    fn models(start: &Start<Self::Config>, starts_anew: bool) -> Result<Self::Objective>;

    /// Images of what the models do, if the task has any.
    fn drawing<'a>(_: &'a Start<Self::Config>, _: &'a Self::Objective) -> Option<Drawing<'a>> {
        None
    }

    /// The encoders as they are after training.
    fn trained(models: &Self::Objective) -> Trained<'_>;

    /// Prints the models with their sizes, and checks the weights that the config names.
    ///
    /// # Errors
    /// Weights cannot be read or do not fit.
    fn check_models(config: &Self::Config) -> Result<()>;

    /// Prints what one may do with what came out.
    fn print_advice(config: &Self::Config);
}

/// What models are made from.
pub struct Start<'a, C> {
    pub config: &'a C,
    pub group: &'a ProcessGroup,
    pub device: Device,
    pub dataset: &'a Arc<Dataset>,
}

/// Trains, exports, and says what came out.
///
/// # Errors
/// What the user has to know, in a line.
pub fn run<T: Training>(config: &T::Config, resume: &Resume, dry: bool) -> Result<u8> {
    let rank_info = environment::of_this_process()?;
    answer_quit(rank_info.as_ref())?;
    let device =
        device::choose(&config.train().run, &rank_info.clone().unwrap_or_else(RankInfo::alone))?;
    if dry {
        return dry_run::<T>(config);
    }
    T::require_abilities(config, device)?;
    signals::install()?;
    let joining = debug_span!("join").entered();
    let group = match setup::join(rank_info, config.train(), device) {
        Ok(group) => group,
        Err(error) if error.is::<StoppedEarly>() => {
            warn!("stopped before all ranks had come; the same command continues");
            return Ok(RESUME_ME);
        }
        Err(error) => return Err(error),
    };
    drop(joining);
    let trained = guard(|| train_and_export::<T>(config.clone(), resume, &group, device));
    match trained.map_err(|error| explain_memory(error, config.train())) {
        Ok(code) => group.leave().map(|()| code),
        Err(error) => {
            group.announce(&error);
            Err(error)
        }
    }
}

/// From here on SIGQUIT prints what this process does, and where each of its threads is.
fn answer_quit(rank_info: Option<&RankInfo>) -> Result<()> {
    let who = rank_info.map_or_else(
        || "a run of one process".into(),
        |info| format!("rank {} of {}", info.rank, info.world_size),
    );
    // A terminal that is gone is no reason to end.
    status::dump_on_quit(who, |text| drop(screen::AboveBars.write_all(text.as_bytes())))
}

fn train_and_export<T: Training>(
    mut task: T::Config,
    resume: &Resume,
    group: &ProcessGroup,
    device: Device,
) -> Result<u8> {
    // Held by the first process until the end.
    let (_run_directory, checkpoint) =
        debug_span!("open_run").in_scope(|| setup::open_run(&mut task, resume, group))?;
    let config = task.train();
    let path = config.run.dir.as_path();
    let dataset = debug_span!("open_dataset")
        .in_scope(|| setup::open_dataset(config, group, || open_dataset(config)))?;
    let dataset = Arc::new(dataset);
    if group.is_first() {
        evaluation::check(config)?;
    }
    let schedule = schedule(config, &dataset);
    let start = Start { config: &task, group, device, dataset: &dataset };
    let (objective, mut state) = debug_span!("load_models")
        .in_scope(|| models_and_state::<T>(&start, checkpoint.as_ref()))?;
    if state.step >= schedule.total_steps() {
        info!(step = state.step, "this run is complete; nothing is left to train");
    }

    let global_batch = config.data.images_per_step() as u64;
    let steps_left = schedule.total_steps().saturating_sub(state.step);
    let batches = RankBatches {
        positions: state.position..state.position + steps_left * global_batch,
        global_batch,
        batch: config.data.batch_size as u64,
        rank: group.rank() as u64,
        world_size: group.world_size() as u64,
    };
    let worker = super::worker_program()?;
    let loader = Loader::start(dataset.clone(), &config.data, &worker, batches.ranges())?;
    let mut prefetcher = DevicePrefetcher::new(Box::new(loader), &config.data, device)?;
    let run = Run {
        config,
        path,
        group,
        objective: &objective,
        schedule: &schedule,
        batches_per_step: batches.per_step(),
        drawing: T::drawing(&start, &objective),
    };
    let outcome = train(&run, &mut state, &mut prefetcher)?;
    let step = state.step;
    // What comes needs the weights only, and may need the memory.
    drop((run, state, prefetcher));
    match outcome {
        Outcome::Finished => {
            // The others stay until all is done: a launcher could not start rank 0 anew without them.
            if !group.is_first() {
                return Ok(group.wait_for(ENDED)?.first().copied().unwrap_or(DONE));
            }
            let code = conclude::<T>(&start, &objective, step)?;
            group.publish(ENDED, &[code])?;
            Ok(code)
        }
        Outcome::Stopped(signal) => {
            let why = signal.map_or_else(|| "a signal to another rank".into(), |s| s.to_string());
            warn!(step, "stopped by {why}; the same command continues from here");
            Ok(RESUME_ME)
        }
    }
}

/// What the first process does when training has ended.
fn conclude<T: Training>(
    start: &Start<T::Config>,
    objective: &T::Objective,
    step: u64,
) -> Result<u8> {
    let (config, group) = (start.config.train(), start.group);
    let _exporting = group.enter(Activity::Exporting);
    let mut evaluation = Ok(None);
    if !config.export.formats.is_empty() || config.evaluation.knn.is_some() {
        // Opened once: that reads and checks all of it.
        let checkpoint =
            debug_span!("open_checkpoint").in_scope(|| checkpoint::newest(&config.run.dir))?;
        let checkpoint = checkpoint.context("the run has no checkpoint to export")?;
        debug_span!("export").in_scope(|| export(start.config, &checkpoint))?;
        let _evaluating = group.enter(Activity::Evaluating);
        let _span = debug_span!("evaluate").entered();
        evaluation = evaluation::measure(start, &checkpoint, &T::trained(objective));
    }
    match evaluation {
        Ok(evaluation) => {
            summary::print(start.config, step, evaluation.as_ref())?;
            T::print_advice(start.config);
            Ok(DONE)
        }
        Err(error) => match error.downcast_ref::<Interrupted>() {
            Some(interrupted) => {
                warn!("{interrupted}");
                Ok(RESUME_ME)
            }
            None => Err(error),
        },
    }
}

fn models_and_state<T: Training>(
    start: &Start<T::Config>,
    checkpoint: Option<&Checkpoint>,
) -> Result<(T::Objective, State)> {
    let objective = T::models(start, checkpoint.is_none())?;
    let config = start.config.train();
    let mut state = State::new(start.group, &objective, config, stream(config, start.dataset))?;
    if let Some(checkpoint) = checkpoint {
        state.restore(start.group, &objective, checkpoint)?;
    }
    Ok((objective, state))
}

/// Everything that can be found wrong before training, without training.
fn dry_run<T: Training>(task: &T::Config) -> Result<u8> {
    T::check_models(task)?;
    let config = task.train();
    let dataset = open_dataset(config)?;
    summary::print_plan(config, &dataset, &schedule(config, &dataset));
    evaluation::check(config)?;
    Ok(DONE)
}

fn open_dataset(config: &TrainConfig) -> Result<Dataset> {
    opening("opening shards", |progress| Dataset::open(&config.data, config.seed, progress))
}

/// Shows how `open` gets on, under this label.
///
/// # Errors
/// Those of `open`.
pub fn opening(
    label: &str,
    open: impl FnOnce(ShardProgress) -> Result<Dataset>,
) -> Result<Dataset> {
    let phase = OnceLock::new();
    let dataset = open(&|_, shards| {
        phase.get_or_init(|| Phase::begin(label, Some(shards as u64))).advance(1);
    })?;
    if let Some(phase) = phase.into_inner() {
        phase.finish();
    }
    Ok(dataset)
}

fn schedule(config: &TrainConfig, dataset: &Dataset) -> Schedule {
    let global_batch = config.data.images_per_step();
    Schedule::new(&config.optimizer, &config.schedule, global_batch, dataset.sample_count())
}

fn stream(config: &TrainConfig, dataset: &Dataset) -> Stream {
    Stream {
        seed: config.seed,
        dataset: dataset.fingerprint().to_string(),
        shuffle: config.data.shuffle,
        global_batch_size: config.data.images_per_step(),
    }
}

/// Writes every encoder of the newest checkpoint, which is the state just trained.
fn export(task: &impl TaskConfig, checkpoint: &Checkpoint) -> Result<()> {
    let config = task.train();
    let run = config.run.dir.as_path();
    if config.export.formats.is_empty() {
        return Ok(());
    }
    let preprocessing = Preprocessing { mean: config.data.mean, std: config.data.std };
    for trained in task.encoders() {
        let file = checkpoint.weights(&trained.name)?;
        let weights = EncoderWeights::of_trainee(file, trained.model.family)?;
        let encoder = weights.measure(Some(trained.model.heads))?;
        let out = run.join("exports").join(&trained.name);
        encoders::export(&weights, &encoder, preprocessing, &config.export.formats, false, &out)
            .with_context(|| format!("cannot export `{}`", trained.name))?;
    }
    Ok(())
}
