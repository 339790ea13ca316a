//! `distill --config FILE`: one teacher, its students, from shards to exported weights.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use tch::{Cuda, Device};
use tracing::{info, warn};

use super::{DONE, RESUME_ME, meeting, models, summary};
use crate::config::{Config, ConfigError, DeviceChoice};
use crate::data::{Dataset, Loader, RankBatches};
use crate::dist::{Activity, Place, StoppedEarly, Team, environment};
use crate::native::guard;
use crate::objective::distill::Distillation;
use crate::train::checkpoint::{self, Checkpoint, Stream};
use crate::train::feed::Feed;
use crate::train::run_directory::Resume;
use crate::train::schedule::Schedule;
use crate::train::screen::Phase;
use crate::train::{Outcome, Run, State, explain_memory, signals, train};
use crate::weights::{self, Preprocessing};

#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    /// What to train, on what, how: a TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override a key of the config, for example data.batch_size=32 or students.0.drop_path=0.1
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// Where to start: `auto` continues from the run's newest whole checkpoint, `never` moves an
    /// earlier run aside and starts again, a path continues from that checkpoint folder
    #[arg(long, value_name = "auto|never|PATH", default_value = "auto", requires = "config")]
    resume: Resume,
    /// Check config, shards and weights, say what would be trained, and stop
    #[arg(long, requires = "config")]
    dry_run: bool,
}

/// Trains, exports, and says what came out.
pub fn run(args: &TrainArgs) -> Result<u8> {
    let file = args.config.as_deref().ok_or_else(|| ConfigError {
        file: PathBuf::new(),
        key: "--config".into(),
        message: "is missing; name a TOML file, such as configs/quickstart.toml".into(),
    })?;
    let config = Config::load(file, &args.set)?;
    let place = environment::of_this_process()?;
    let device = choose_device(&config, &place.clone().unwrap_or_else(Place::alone))?;
    if args.dry_run {
        return dry_run(&config);
    }
    signals::install()?;
    let team = match join(place, &config, device) {
        Ok(team) => team,
        Err(error) if error.is::<StoppedEarly>() => {
            warn!("stopped before all ranks had come; the same command continues");
            return Ok(RESUME_ME);
        }
        Err(error) => return Err(error),
    };
    let trained = guard(|| train_and_export(config.clone(), &args.resume, &team, device));
    match trained.map_err(|error| explain_memory(error, &config)) {
        Ok(code) => team.leave().map(|()| code),
        Err(error) => {
            team.announce(&error);
            Err(error)
        }
    }
}

/// # Errors
/// Not all processes come, or a signal asks to stop.
pub fn join(place: Option<Place>, config: &Config, device: Device) -> Result<Team> {
    let asked_to_stop = || signals::stop_requested().is_some();
    let Some(place) = place else { return Ok(Team::alone(device, asked_to_stop)) };
    let timeout = Duration::from_secs_f64(config.distributed.timeout_seconds);
    let (size, local) = (place.world_size, place.local_world_size);
    info!("rank {} of {size}, {local} on this node, on {device:?}", place.rank);
    // Nodes do not start at one moment, however soon a silent one is to be noticed later.
    // A restarted one waits for the others of the attempt before to notice.
    let meeting = timeout + Duration::from_secs(60);
    let name = config.run.dir.display().to_string();
    Team::join(place, device, &name, meeting, timeout, asked_to_stop)
}

fn train_and_export(
    mut config: Config,
    resume: &Resume,
    team: &Team,
    device: Device,
) -> Result<u8> {
    // Held by the first process until the end.
    let (_run_directory, checkpoint) = meeting::open_run(&mut config, resume, team)?;
    let config = &config;
    let path = config.run.dir.as_path();
    let dataset = Arc::new(meeting::open_dataset(config, team, || open_dataset(config))?);
    let schedule = schedule(config, &dataset);
    let (objective, mut state) =
        models_and_state(config, team, device, &dataset, checkpoint.as_ref())?;
    if state.step >= schedule.total_steps() {
        info!(step = state.step, "this run is complete; nothing is left to train");
    }

    let global_batch = config.data.images_per_step() as u64;
    let steps_left = schedule.total_steps().saturating_sub(state.step);
    let batches = RankBatches {
        positions: state.position..state.position + steps_left * global_batch,
        global_batch,
        batch: config.data.batch_size as u64,
        rank: team.rank() as u64,
        world_size: team.world_size() as u64,
    };
    let loader = Loader::start(dataset, &config.data, &super::worker_program()?, batches.ranges())?;
    let mut feed = Feed::new(Box::new(loader), &config.data, device)?;
    let run = Run {
        config,
        path,
        team,
        objective: &objective,
        schedule: &schedule,
        batches_per_step: batches.per_step(),
    };
    match train(&run, &mut state, &mut feed)? {
        Outcome::Finished => {
            team.doing(Activity::Saving);
            // The others stay until all is done: a launcher could not start rank 0 anew without them.
            if team.is_first() {
                export(config, path)?;
                summary::print(config, path, state.step)?;
                team.write("exported", b"")?;
            } else {
                team.read("exported")?;
            }
            Ok(DONE)
        }
        Outcome::Stopped(signal) => {
            let why = signal.map_or_else(|| "a signal to another rank".into(), |s| s.to_string());
            warn!(step = state.step, "stopped by {why}; the same command continues from here");
            Ok(RESUME_ME)
        }
    }
}

fn models_and_state(
    config: &Config,
    team: &Team,
    device: Device,
    dataset: &Dataset,
    checkpoint: Option<&Checkpoint>,
) -> Result<(Distillation, State)> {
    let teacher = guard(|| models::load_teacher(config, team, device))?;
    let objective = guard(|| models::students(config, teacher, device, checkpoint.is_none()))?;
    let mut state = State::new(team, &objective, config, stream(config, dataset))?;
    if let Some(checkpoint) = checkpoint {
        state.restore(team, &objective, checkpoint)?;
    }
    Ok((objective, state))
}

/// Everything that can be found wrong before training, without training.
fn dry_run(config: &Config) -> Result<u8> {
    summary::print_models(&Distillation::shapes_only(config), config);
    models::check_weights(config)?;
    let dataset = open_dataset(config)?;
    summary::print_plan(config, &dataset, &schedule(config, &dataset));
    Ok(DONE)
}

/// The device of this process: on a node with several GPUs that of its local rank, unless its
/// launcher lets it see one only. Sets the number of CPU threads, too.
///
/// # Errors
/// There is no such device.
pub fn choose_device(config: &Config, place: &Place) -> Result<Device, ConfigError> {
    let wrong_key =
        |key: &str, message| ConfigError { file: PathBuf::new(), key: key.into(), message };
    let wrong = |message: String| wrong_key("run.device", message);
    let threads = match config.run.threads {
        // What a launcher says of threads stands; alone, libtorch takes all cores.
        0 if place.local_world_size == 1 || std::env::var_os("OMP_NUM_THREADS").is_some() => None,
        0 => {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            Some((cores / place.local_world_size).max(1))
        }
        threads => Some(threads),
    };
    if let Some(threads) = threads {
        tch::set_num_threads(threads as i32);
    }
    let gpus = if Cuda::is_available() { Cuda::device_count().max(0) as usize } else { 0 };
    match (config.run.device, gpus) {
        (DeviceChoice::Cpu, _) | (DeviceChoice::Auto, 0) if config.teacher.cuda_graph => {
            Err(wrong_key("teacher.cuda_graph", "found true, expected false on a CPU".into()))
        }
        (DeviceChoice::Cpu, _) | (DeviceChoice::Auto, 0) => Ok(Device::Cpu),
        (DeviceChoice::Cuda, 0) => Err(wrong(
            "found `cuda`, but libtorch sees no GPU here: check nvidia-smi, or use `cpu`".into(),
        )),
        (_, 1) => Ok(Device::Cuda(0)),
        (_, gpus) if place.local_rank < gpus => Ok(Device::Cuda(place.local_rank)),
        (_, gpus) => Err(wrong(format!(
            "local rank {} has no GPU: this node shows {gpus}; start at most as many processes",
            place.local_rank
        ))),
    }
}

fn open_dataset(config: &Config) -> Result<Dataset> {
    let phase = OnceLock::new();
    let dataset = Dataset::open(&config.data, config.seed, &|_, shards| {
        phase.get_or_init(|| Phase::begin("opening shards", Some(shards as u64))).advance(1);
    })?;
    if let Some(phase) = phase.into_inner() {
        phase.finish();
    }
    Ok(dataset)
}

fn schedule(config: &Config, dataset: &Dataset) -> Schedule {
    let global_batch = config.data.images_per_step();
    Schedule::new(&config.optimizer, &config.schedule, global_batch, dataset.sample_count())
}

fn stream(config: &Config, dataset: &Dataset) -> Stream {
    Stream {
        seed: config.seed,
        dataset: dataset.fingerprint().to_string(),
        shuffle: config.data.shuffle,
        global_batch_size: config.data.images_per_step(),
    }
}

/// Writes every student of the newest checkpoint, which is the state just trained.
fn export(config: &Config, run: &Path) -> Result<()> {
    if config.export.formats.is_empty() {
        return Ok(());
    }
    let checkpoint = checkpoint::newest(run)?.context("the run has no checkpoint to export")?;
    let preprocessing = Preprocessing { mean: config.data.mean, std: config.data.std };
    for student in &config.students {
        let file = checkpoint.weights(&student.name)?;
        let encoder = file.encoder(Some(student.model.heads))?;
        let out = run.join("exports").join(&student.name);
        weights::export(&file, &encoder, preprocessing, &config.export.formats, false, &out)
            .with_context(|| format!("cannot export student `{}`", student.name))?;
    }
    Ok(())
}
