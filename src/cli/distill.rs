//! `distill --config FILE`: one teacher, its students, from shards to exported weights.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, ensure};
use tch::{Cuda, Device, Kind, Tensor};
use tracing::{info, warn};

use super::{DONE, RESUME_ME, summary};
use crate::config::{Config, ConfigError, DeviceChoice, EncoderSize, Precision};
use crate::data::{Dataset, Loader, RankBatches};
use crate::model::{Storage, resize_positions};
use crate::native::guard;
use crate::objective::distill::{Distillation, Teacher};
use crate::objective::{Objective, Trainee};
use crate::train::checkpoint::{self, Stream};
use crate::train::feed::Feed;
use crate::train::run_directory::{Resume, RunDirectory};
use crate::train::schedule::Schedule;
use crate::train::screen::Phase;
use crate::train::{Outcome, State, explain_memory, signals, train};
use crate::weights::{self, Preprocessing, WeightFile, beside_encoder};

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
    let file = args.config.as_deref().ok_or_else(|| ConfigError {
        file: PathBuf::new(),
        key: "--config".into(),
        message: "is missing; name a TOML file, such as configs/quickstart.toml".into(),
    })?;
    let config = Config::load(file, &args.set)?;
    if args.dry_run {
        return dry_run(&config);
    }
    signals::install()?;
    train_and_export(&config, &args.resume).map_err(|error| explain_memory(error, &config))
}

fn train_and_export(config: &Config, resume: &Resume) -> Result<u8> {
    let device = choose_device(config)?;
    let (run, checkpoint) = RunDirectory::open(config, resume)?;
    let dataset = Arc::new(open_dataset(config)?);
    let schedule = schedule(config, &dataset);

    let teacher = guard(|| load_teacher(config, device))?;
    let objective = guard(|| students(config, teacher, device, checkpoint.is_none()))?;
    let mut state = State::new(&objective, config, stream(config, &dataset));
    if let Some(checkpoint) = &checkpoint {
        state.restore(&objective, checkpoint)?;
    }
    if state.step >= schedule.total_steps() {
        info!(step = state.step, "this run is complete; nothing is left to train");
    }

    let global_batch = config.data.images_per_step() as u64;
    let steps_left = schedule.total_steps().saturating_sub(state.step);
    let batches = RankBatches {
        positions: state.position..state.position + steps_left * global_batch,
        global_batch,
        batch: config.data.batch_size as u64,
        rank: 0,
        world_size: 1,
    };
    let loader = Loader::start(dataset, &config.data, &super::worker_program()?, batches.ranges())?;
    let mut feed = Feed::new(loader, &config.data, device);
    match train(config, run.path(), &objective, &schedule, &mut state, &mut feed)? {
        Outcome::Finished => {
            export(config, run.path())?;
            summary::print(config, run.path(), state.step)?;
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
    for (key, weights, size) in weights_of(config).filter(|(_, weights, _)| *weights != RANDOM) {
        let stored = StoredWeights::open(&key, weights, size)?;
        stored.build(Storage::Shapes, |file, encoder| file.check_fit(encoder, beside_encoder))?;
    }
    let dataset = open_dataset(config)?;
    summary::print_plan(config, &dataset, &schedule(config, &dataset));
    Ok(DONE)
}

/// Key, place and expected size of all weights that a config names.
fn weights_of(config: &Config) -> impl Iterator<Item = (String, &str, EncoderSize)> {
    let teacher = &config.teacher;
    let students = config.students.iter().enumerate().map(|(index, student)| {
        (format!("students.{index}.weights"), student.weights.as_str(), student.model)
    });
    std::iter::once(("teacher.weights".to_string(), teacher.weights.as_str(), teacher.model))
        .chain(students)
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

/// Encoder weights that a config names.
struct StoredWeights {
    file: WeightFile,
    context: String,
    size: EncoderSize,
    /// Side of the patch grid that the stored positions are for.
    grid: usize,
}

impl StoredWeights {
    fn open(key: &str, weights: &str, size: EncoderSize) -> Result<Self> {
        let context = format!("{key} = \"{weights}\"");
        let file = WeightFile::open(Path::new(weights)).with_context(|| context.clone())?;
        let tokens = file.shapes().get("pos_embed").and_then(|shape| shape.get(1).copied());
        let patches = (tokens.unwrap_or(0) as usize).saturating_sub(size.class_tokens);
        Ok(Self { file, context, size, grid: patches.isqrt() })
    }

    /// Builds the encoder with the file's own grid and has it filled or checked by `visit`.
    fn build(
        &self,
        storage: Storage,
        visit: impl Fn(&WeightFile, &[(String, Tensor)]) -> Result<()>,
    ) -> Result<Teacher> {
        let encoder = Teacher::new(storage, self.size, self.grid);
        visit(&self.file, encoder.parameters.named()).with_context(|| self.context.clone())?;
        let heads = self.file.declared_size().map_or(self.size.heads, |size| size.heads);
        ensure!(
            heads == self.size.heads,
            "{}: the weights have {heads} attention heads, the config says {}",
            self.context,
            self.size.heads
        );
        Ok(encoder)
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
    let stored = StoredWeights::open("teacher.weights", &config.teacher.weights, size)?;
    let teacher = stored.build(Storage::Empty { device, matrices }, |file, encoder| {
        file.load_into(encoder, beside_encoder)
    })?;
    info!(
        parameters = teacher.parameters.count(),
        layout = %stored.file.layout(),
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
    let named = weights_of(config).skip(1);
    for ((key, weights, size), trainee) in named.zip(objective.trainees()) {
        let parameters = trainee.parameters.count();
        info!(parameters, "student `{}`: {size}", trainee.name);
        if starts_anew && weights != RANDOM {
            let side = config.data.input_size / size.patch_size;
            start_from(&StoredWeights::open(&key, weights, size)?, side, trainee)?;
        }
    }
    Ok(objective)
}

/// Copies a stored encoder into a student, with positions resized to the student's `side` ×
/// `side` patch grid.
fn start_from(stored: &StoredWeights, side: usize, trainee: &Trainee) -> Result<()> {
    let storage = Storage::Empty { device: Device::Cpu, matrices: Kind::Float };
    let encoder = stored.build(storage, |file, encoder| file.load_into(encoder, beside_encoder))?;
    let class_tokens = stored.size.class_tokens as i64;
    for ((name, source), (_, target)) in
        encoder.parameters.named().iter().zip(trainee.parameters.named())
    {
        let source = match name.as_str() {
            "pos_embed" => resize_positions(source, class_tokens, side as i64, side as i64),
            _ => source.shallow_clone(),
        };
        tch::no_grad(|| target.shallow_clone().f_copy_(&source))?;
    }
    Ok(())
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
