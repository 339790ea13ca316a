//! `distill --config FILE`: one teacher, its students, from shards to exported weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use tch::{Cuda, Device, Kind};
use tracing::{info, warn};

use super::{DONE, RESUME_ME, summary};
use crate::config::{Config, ConfigError, DeviceChoice, Precision};
use crate::data::{Dataset, Loader};
use crate::model::{Storage, resize_positions};
use crate::native::guard;
use crate::objective::distill::{Distillation, Teacher};
use crate::objective::{Objective, Trainee};
use crate::train::checkpoint::Stream;
use crate::train::feed::Feed;
use crate::train::run_directory::{Resume, RunDirectory};
use crate::train::schedule::Schedule;
use crate::train::{Outcome, State, batch_ranges, signals, train};
use crate::weights::{self, WeightFile};

/// `weights = "random"` draws the weights instead of loading them.
const RANDOM: &str = "random";

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
    let file = args.config.as_deref().context("--config FILE is missing")?;
    let config = Config::load(file, &args.set)?;
    if args.dry_run {
        return dry_run(&config);
    }
    signals::install()?;
    let device = choose_device(&config)?;
    let (run, checkpoint) = RunDirectory::open(&config, &args.resume)?;
    let dataset = Arc::new(open_dataset(&config)?);
    let schedule = schedule(&config, &dataset);

    let teacher = guard(|| load_teacher(&config, device))?;
    let objective = guard(|| students(&config, teacher, device, checkpoint.is_none()))?;
    let mut state = State::new(&objective, &config, stream(&config, &dataset));
    if let Some(checkpoint) = &checkpoint {
        state.restore(&objective, checkpoint)?;
    }
    if state.step >= schedule.total_steps() {
        info!(step = state.step, "this run is complete; nothing is left to train");
    }

    let end = state.position
        + (schedule.total_steps().saturating_sub(state.step))
            * config.data.images_per_step() as u64;
    let ranges = batch_ranges(state.position, config.data.batch_size, end);
    let loader = Loader::start(dataset, &config.data, config.seed, ranges)?;
    let mut feed = Feed::new(loader, &config.data, device);
    match train(&config, run.path(), &objective, &schedule, &mut state, &mut feed)? {
        Outcome::Finished => {
            export(&config, run.path(), &objective)?;
            summary::print(&config, run.path(), state.step)?;
            Ok(DONE)
        }
        Outcome::Stopped(signal) => {
            warn!(step = state.step, "stopped by {signal}; the same command continues from here");
            Ok(RESUME_ME)
        }
    }
}

/// Everything that can be found wrong before training, without training.
fn dry_run(config: &Config) -> Result<u8> {
    summary::print_models(&Distillation::shapes_only(config), config);
    choose_device(config)?;
    let dataset = open_dataset(config)?;
    summary::print_plan(config, &dataset, &schedule(config, &dataset));
    for weights in std::iter::once((&config.teacher.weights, config.teacher.model))
        .chain(config.students.iter().map(|student| (&student.weights, student.model)))
        .filter(|(weights, _)| *weights != RANDOM)
    {
        WeightFile::open(Path::new(weights.0))?.require_size(&weights.1)?;
    }
    Ok(DONE)
}

fn choose_device(config: &Config) -> Result<Device, ConfigError> {
    if config.run.threads > 0 {
        tch::set_num_threads(config.run.threads as i32);
    }
    let available = Cuda::is_available();
    match config.run.device {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Auto if !available => Ok(Device::Cpu),
        DeviceChoice::Cuda if !available => Err(ConfigError {
            file: PathBuf::new(),
            key: "run.device".into(),
            message: "found `cuda`, but libtorch sees no GPU here: check nvidia-smi, or use `cpu`"
                .into(),
        }),
        DeviceChoice::Auto | DeviceChoice::Cuda => Ok(Device::Cuda(0)),
    }
}

fn compute_kind(config: &Config) -> Kind {
    match config.run.precision {
        Precision::Fp32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
    }
}

fn open_dataset(config: &Config) -> Result<Dataset> {
    Dataset::open(&config.data)
}

fn schedule(config: &Config, dataset: &Dataset) -> Schedule {
    let global_batch = config.data.images_per_step();
    Schedule::new(&config.optimizer, &config.schedule, global_batch, dataset.len())
}

fn stream(config: &Config, dataset: &Dataset) -> Stream {
    Stream {
        seed: config.seed,
        dataset: dataset.fingerprint(),
        global_batch_size: config.data.images_per_step(),
    }
}

/// The teacher on `device`, its matrices kept in the number format that they are used in.
fn load_teacher(config: &Config, device: Device) -> Result<Teacher> {
    let size = config.teacher.model;
    let matrices = compute_kind(config);
    if config.teacher.weights == RANDOM {
        warn!(
            "the teacher has random weights: its students learn to imitate it, but nothing about \
             pictures. For a real run set teacher.weights"
        );
        let side = config.data.input_size / size.patch_size;
        return Ok(Teacher::new(Teacher::drawn(device, matrices, config.seed), size, side));
    }
    let file = WeightFile::open(Path::new(&config.teacher.weights))?;
    let teacher = Teacher::new(Storage::Empty { device, matrices }, size, file.grid(&size)?);
    file.load_into(teacher.parameters.named())
        .with_context(|| format!("teacher.weights = \"{}\"", config.teacher.weights))?;
    info!(
        parameters = teacher.parameters.count(),
        layout = %file.layout(),
        "teacher loaded from {}",
        config.teacher.weights
    );
    Ok(teacher)
}

/// The students with initial weights; those named in the config are read only for a new run.
fn students(
    config: &Config,
    teacher: Teacher,
    device: Device,
    starts_anew: bool,
) -> Result<Distillation> {
    let objective = Distillation::new(config, teacher, device, compute_kind(config));
    for (student, trainee) in config.students.iter().zip(objective.trainees()) {
        info!(parameters = trainee.parameters.count(), "student `{}`: {}", student.name, student.model);
        if starts_anew && student.weights != RANDOM {
            start_from(&student.weights, &student.model, trainee).with_context(|| {
                format!("weights of student `{}` = \"{}\"", student.name, student.weights)
            })?;
        }
    }
    Ok(objective)
}

fn export(config: &Config, run: &Path, objective: &dyn Objective) -> Result<()> {
    for (student, trainee) in config.students.iter().zip(objective.trainees()) {
        let folder = run.join("exports").join(&student.name);
        for &format in &config.export.formats {
            todo!()
        }
    }
    Ok(())
}
