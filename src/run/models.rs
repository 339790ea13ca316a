//! The models that a config names, in memory.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};
use tracing::{info, warn};

use crate::dist::ProcessGroup;
use crate::encoders::{Encoder, EncoderSpec, EncoderWeights};
use crate::nn::{Parameters, Storage};
use crate::tasks::distill::DistillConfig;
use crate::tasks::distill::{Distillation, Teacher};
use crate::tasks::pretrain::Autoencoder;
use crate::tasks::pretrain::PretrainConfig;
use crate::tasks::{TaskConfig, TraineeConfig};
use crate::train::objective::Objective;

/// `weights = "random"` draws the weights instead of loading them.
pub const RANDOM: &str = TraineeConfig::RANDOM;

/// Where a config of pre-training says what its encoder starts from.
const ENCODER_KEY: &str = "encoder.weights";

/// # Errors
/// Weights that the config names cannot be read or do not fit.
pub fn check_weights(config: &DistillConfig) -> Result<()> {
    weights_of(config).try_for_each(|(key, weights, size)| check(&key, weights, size))
}

/// As [`check_weights`], of what an encoder that is to be pre-trained starts from.
pub fn check_encoder_weights(config: &TraineeConfig) -> Result<()> {
    check(ENCODER_KEY, &config.weights, config.model)
}

fn check(key: &str, weights: &str, spec: EncoderSpec) -> Result<()> {
    if weights == RANDOM {
        return Ok(());
    }
    StoredWeights::open(key, weights, spec)?.build(Storage::Shapes, EncoderWeights::check_fit)?;
    Ok(())
}

/// Key, place and expected encoder of all weights that a config names.
fn weights_of(config: &DistillConfig) -> impl Iterator<Item = (String, &str, EncoderSpec)> {
    let teacher = &config.teacher;
    let students = config.students.iter().enumerate().map(|(index, student)| {
        (format!("students.{index}.weights"), student.weights.as_str(), student.model)
    });
    std::iter::once(("teacher.weights".to_string(), teacher.weights.as_str(), teacher.model))
        .chain(students)
}

/// Encoder weights that a config names.
struct StoredWeights {
    weights: EncoderWeights,
    context: String,
    spec: EncoderSpec,
    /// Patches along each side of the images that the stored positions are for.
    grid_size: usize,
}

impl StoredWeights {
    fn open(key: &str, weights: &str, spec: EncoderSpec) -> Result<Self> {
        let context = format!("{key} = \"{weights}\"");
        let weights = EncoderWeights::open(Path::new(weights)).with_context(|| context.clone())?;
        let grid_size = spec.family.stored_grid(&spec, &weights.file);
        Ok(Self { weights, context, spec, grid_size })
    }

    /// Builds the encoder with the weights' own grid and has it filled or checked by `visit`.
    fn build(
        &self,
        storage: Storage,
        visit: impl Fn(&EncoderWeights, &[(String, Tensor)]) -> Result<()>,
    ) -> Result<Teacher> {
        let encoder = Teacher::new(storage, self.spec, self.grid_size);
        visit(&self.weights, encoder.parameters.named()).with_context(|| self.context.clone())?;
        let heads = self.weights.declared().map_or(self.spec.heads, |spec| spec.heads);
        ensure!(
            heads == self.spec.heads,
            "{}: the weights have {heads} attention heads, the config says {}",
            self.context,
            self.spec.heads
        );
        Ok(encoder)
    }
}

/// The teacher on `device`, its matrices kept in the number format that they are used in.
pub fn load_teacher(
    config: &DistillConfig,
    group: &ProcessGroup,
    device: Device,
) -> Result<Teacher> {
    let size = config.teacher.model;
    let matrices = config.train.run.precision.kind();
    if config.teacher.weights == RANDOM {
        if group.is_first() {
            warn!(
                "the teacher has random weights: its students learn to imitate it, but nothing about \
             images. For a real run set teacher.weights"
            );
        }
        let grid_size = config.train.data.input_size / size.patch_size;
        return Ok(Teacher::new(
            Teacher::drawn(device, matrices, config.train.seed),
            size,
            grid_size,
        ));
    }
    let stored = StoredWeights::open("teacher.weights", &config.teacher.weights, size)?;
    let teacher = stored.build(Storage::Empty { device, matrices }, EncoderWeights::load_into)?;
    info!(
        parameters = teacher.parameters.count(),
        layout = stored.weights.file.layout(),
        "teacher loaded from {}",
        config.teacher.weights
    );
    Ok(teacher)
}

/// The students with initial weights; those named in the config are read only for a new run.
pub fn students(
    config: &DistillConfig,
    teacher: Teacher,
    device: Device,
    starts_anew: bool,
) -> Result<Distillation> {
    let objective = Distillation::new(config, teacher, device, config.train.run.precision.kind());
    let named = weights_of(config).skip(1);
    for ((key, weights, size), trainee) in named.zip(objective.trainees()) {
        let parameters = trainee.parameters.count();
        info!(parameters, "student `{}`: {size}", trainee.name);
        if starts_anew && weights != RANDOM {
            let grid_size = config.train.data.input_size / size.patch_size;
            start_from(&StoredWeights::open(&key, weights, size)?, grid_size, &trainee.parameters)?;
        }
    }
    Ok(objective)
}

/// The encoders of a config as they are before the first step, on `device`; an error for each whose
/// weights, which the config names, cannot be read any more.
pub fn initial_encoders(config: &impl TaskConfig, device: Device) -> Vec<Result<Box<dyn Encoder>>> {
    let train = config.train();
    let of_stream = |(rng_stream, encoder): (usize, &TraineeConfig)| {
        let grid_size = train.data.input_size / encoder.model.patch_size;
        let (seed, rng_stream) = (train.seed, rng_stream as u64);
        // An encoder's parameters come first in a trainee, so they are drawn alike.
        let mut parameters =
            Parameters::new(Storage::Drawn { device, matrices: Kind::Float, seed, rng_stream });
        let built = encoder.model.build(&mut parameters, grid_size);
        if encoder.weights != RANDOM {
            let stored = StoredWeights::open("its weights", &encoder.weights, encoder.model)?;
            start_from(&stored, grid_size, &parameters)?;
        }
        Ok(built)
    };
    config.encoders().iter().enumerate().map(of_stream).collect()
}

/// The autoencoder with initial weights; those named in the config are read only for a new run.
pub fn autoencoder(
    config: &PretrainConfig,
    device: Device,
    starts_anew: bool,
) -> Result<Autoencoder> {
    let PretrainConfig { train, encoder, .. } = config;
    let objective = Autoencoder::new(config, device, train.run.precision.kind());
    let trainee = &objective.trainees()[0];
    let parameters = trainee.parameters.count();
    info!(parameters, "encoder `{}` with its decoder: {}", trainee.name, encoder.model);
    if starts_anew && encoder.weights != RANDOM {
        let grid_size = train.data.input_size / encoder.model.patch_size;
        let stored = StoredWeights::open(ENCODER_KEY, &encoder.weights, encoder.model)?;
        start_from(&stored, grid_size, &trainee.parameters)?;
    }
    Ok(objective)
}

/// Copies a stored encoder into `target`, whose first parameters are those of one, with positions resized
/// to `grid_size` × `grid_size` patches.
fn start_from(stored: &StoredWeights, grid_size: usize, target: &Parameters) -> Result<()> {
    let storage = Storage::Empty { device: Device::Cpu, matrices: Kind::Float };
    let encoder = stored.build(storage, EncoderWeights::load_into)?;
    let StoredWeights { spec, .. } = stored;
    for ((name, source), (_, target)) in encoder.parameters.named().iter().zip(target.named()) {
        let source = spec.family.resized(spec, name, source, grid_size);
        tch::no_grad(|| target.shallow_clone().f_copy_(&source))?;
    }
    Ok(())
}
