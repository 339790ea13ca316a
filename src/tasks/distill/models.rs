//! Teacher and students, in memory.

use anyhow::Result;
use tch::Device;
use tracing::{info, warn};

use super::config::DistillConfig;
use super::distillation::{Distillation, Teacher};
use crate::config::{EncoderConfig, EncoderSize};
use crate::dist::ProcessGroup;
use crate::nn::{Storage, kind_of};
use crate::tasks::initial_weights::{StoredWeights, start_from};
use crate::train::objective::Objective;
use crate::weights::beside_encoder;

/// Key, place and expected size of all weights that a config names.
pub(super) fn weights_of(
    config: &DistillConfig,
) -> impl Iterator<Item = (String, &str, EncoderSize)> {
    let teacher = &config.teacher;
    let students = config.students.iter().enumerate().map(|(index, student)| {
        (format!("students.{index}.weights"), student.weights.as_str(), student.model)
    });
    std::iter::once(("teacher.weights".to_string(), teacher.weights.as_str(), teacher.model))
        .chain(students)
}

/// The teacher on `device`, its matrices kept in the number format that they are used in.
pub(super) fn load_teacher(
    config: &DistillConfig,
    group: &ProcessGroup,
    device: Device,
) -> Result<Teacher> {
    let size = config.teacher.model;
    let matrices = kind_of(config.train.run.precision);
    if config.teacher.weights == EncoderConfig::RANDOM {
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
    let (vit, parameters) = stored
        .build(Storage::Empty { device, matrices }, |file, encoder| {
            file.load_into(encoder, beside_encoder)
        })?;
    let teacher = Teacher::loaded(vit, parameters);
    info!(
        parameters = teacher.parameters.count(),
        layout = %stored.file.layout(),
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
    let objective = Distillation::new(config, teacher, device, kind_of(config.train.run.precision));
    let named = weights_of(config).skip(1);
    for ((key, weights, size), trainee) in named.zip(objective.trainees()) {
        let parameters = trainee.parameters.count();
        info!(parameters, "student `{}`: {size}", trainee.name);
        if starts_anew && weights != EncoderConfig::RANDOM {
            let grid_size = config.train.data.input_size / size.patch_size;
            start_from(&StoredWeights::open(&key, weights, size)?, grid_size, &trainee.parameters)?;
        }
    }
    Ok(objective)
}
