//! Teacher and students, in memory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tch::Device;
use tracing::{info, warn};

use super::config::DistillConfig;
use super::distillation::Distillation;
use super::teacher::Teacher;
use crate::config::ConfigError;
use crate::dist::ProcessGroup;
use crate::encoders::{EncoderSpec, EncoderWeights, located};
use crate::nn::Storage;
use crate::tasks::initial_weights::{StoredWeights, start_from, tell_normalisation};
use crate::tasks::trainee::TraineeConfig;
use crate::train::objective::Objective;
use crate::weights::Preprocessing;

/// Key, place and expected encoder of all weights that a config names.
pub(super) fn weights_of(
    config: &DistillConfig,
) -> impl Iterator<Item = (String, &str, EncoderSpec)> {
    let teacher = &config.teacher;
    let students = config.students.iter().enumerate().map(|(index, student)| {
        (format!("students.{index}.weights"), student.weights.as_str(), student.model)
    });
    std::iter::once(("teacher.weights".to_string(), teacher.weights.as_str(), teacher.model))
        .chain(students)
}

/// # Errors
/// The teacher's weights come with a normalisation of pixels that is not `data.mean` and `data.std`: it would see
/// other images than it was trained on.
pub(super) fn check_normalisation(config: &DistillConfig) -> Result<()> {
    let weights = &config.teacher.weights;
    if weights == TraineeConfig::RANDOM {
        return Ok(());
    }
    let path =
        located(Path::new(weights)).with_context(|| format!("teacher.weights = \"{weights}\""))?;
    if !Preprocessing::is_beside(&path) {
        return Ok(());
    }
    let own = Preprocessing::beside(&path)?;
    let data = &config.train.data;
    for (key, found, expected) in
        [("data.mean", data.mean, own.mean), ("data.std", data.std, own.std)]
    {
        if found.iter().zip(expected).any(|(found, expected)| (found - expected).abs() > 1e-3) {
            let message = format!(
                "found {found:?}, expected {expected:?}, as preprocessor_config.json beside teacher.weights says"
            );
            return Err(ConfigError { file: PathBuf::new(), key: key.into(), message }.into());
        }
    }
    Ok(())
}

/// The teacher on `device`, its matrices kept in the number format that they are used in.
pub(super) fn load_teacher(
    config: &DistillConfig,
    group: &ProcessGroup,
    device: Device,
) -> Result<Teacher> {
    check_normalisation(config)?;
    let size = config.teacher.model;
    let matrices = config.train.run.precision.kind();
    if config.teacher.weights == TraineeConfig::RANDOM {
        if group.is_first() {
            warn!(
                "the teacher has random weights: its students learn to imitate it, but nothing about \
             images. For a real run set teacher.weights"
            );
        }
        let grid_size = config.teacher_grid_size();
        return Ok(Teacher::new(
            Teacher::drawn(device, matrices, config.train.seed),
            size,
            grid_size,
        ));
    }
    let stored = StoredWeights::open("teacher.weights", &config.teacher.weights, size)?;
    let storage = Storage::Empty { device, matrices };
    let (encoder, parameters) = stored.build(storage, EncoderWeights::load_into)?;
    let teacher = Teacher::loaded(encoder, parameters);
    info!(
        parameters = teacher.parameters.count(),
        layout = stored.weights.file.layout(),
        "teacher loaded from {}",
        config.teacher.weights
    );
    Ok(teacher)
}

/// The students with initial weights; those named in the config are read only for a new run.
pub(super) fn students(
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
        if starts_anew && weights != TraineeConfig::RANDOM {
            tell_normalisation(&key, weights, &config.train.data);
            let grid_size = config.train.data.input_size / size.patch_size;
            start_from(&StoredWeights::open(&key, weights, size)?, grid_size, &trainee.parameters)?;
        }
    }
    Ok(objective)
}
