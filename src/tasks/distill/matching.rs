//! Which of a student's tokens are compared with which of the teacher's, in words.

use super::config::DistillConfig;
use crate::encoders::EncoderSpec;
use crate::tasks::trainee::TraineeConfig;

/// What is compared with what, for one student; see [`super::TokenPair`].
pub(super) fn describe(config: &DistillConfig, student: &TraineeConfig) -> String {
    let (teacher, own) = (&config.teacher.model, &student.model);
    let grid = |model: &EncoderSpec| model.grid_size(config.train.data.input_size);
    let (own_grid, teachers) = (grid(own), grid(teacher));
    let class = match (own.class_tokens, teacher.class_tokens) {
        (0, _) | (_, 0) => "no class tokens".into(),
        (own, teachers) if own == teachers => format!("{own} class tokens one by one"),
        (own, 1) => format!("{own} class tokens as their mean with the teacher's"),
        (1, teachers) => format!("the class token with the mean of the teacher's {teachers}"),
        (own, teachers) => {
            format!("{own} class tokens as their mean with the mean of the teacher's {teachers}")
        }
    };
    let patches = if own_grid == teachers {
        format!("{own_grid} × {own_grid} patches one by one")
    } else if student.mask_ratio > 0.0 {
        format!(
            "{own_grid} × {own_grid} patches, to which the teacher's {teachers} × {teachers} are resized"
        )
    } else {
        format!("{own_grid} × {own_grid} patches, resized to the teacher's {teachers} × {teachers}")
    };
    let registers = match own.registers + teacher.registers {
        0 => "",
        _ => "; registers are left out",
    };
    let untrained = own.family.untrained().map(|part| format!("; {part} stays as it begins"));
    format!("{class}; {patches}{registers}{}", untrained.unwrap_or_default())
}

/// Whether every token has one of the other model's.
pub(super) fn is_one_by_one(config: &DistillConfig, student: &TraineeConfig) -> bool {
    let (teacher, own) = (&config.teacher.model, &student.model);
    own.class_tokens == teacher.class_tokens
        && own.patch_size == teacher.patch_size
        && own.registers + teacher.registers == 0
}
