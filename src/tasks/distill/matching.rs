//! Which of a student's tokens are compared with which of the teacher's, in words.

use super::config::{DistillConfig, TargetForm};
use super::terms::{Term, terms_of};
use crate::encoders::EncoderSpec;
use crate::nn::ProjectorKind;
use crate::tasks::trainee::TraineeConfig;

/// What is compared with what, for one student; see [`super::TokenPair`].
pub(super) fn describe(config: &DistillConfig, student: &TraineeConfig) -> String {
    let (teacher, own) = (&config.teacher.model, &student.model);
    let own_grid = own.grid_size(config.train.data.input_size);
    let teachers = config.teacher_grid_size();
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
        && own.grid_size(config.train.data.input_size) == config.teacher_grid_size()
        && own.registers + teacher.registers == 0
}

/// The comparisons of a student with its teacher: of which blocks, in which shapes, and by what.
pub(super) fn comparisons(
    config: &DistillConfig,
    student: &TraineeConfig,
) -> Vec<(String, String)> {
    let terms = terms_of(config, student).unwrap_or_default();
    terms.iter().map(|term| comparison(config, student, term)).collect()
}

fn comparison(config: &DistillConfig, student: &TraineeConfig, term: &Term) -> (String, String) {
    let (teacher, own) = (&config.teacher.model, &student.model);
    let list = |which: usize, model: &EncoderSpec| {
        let blocks: Vec<String> = term.pairs.iter().map(|pair| pair[which].to_string()).collect();
        let plural = if blocks.len() == 1 { "" } else { "s" };
        format!("block{plural} {} of 0-{}", blocks.join(", "), model.depth - 1)
    };
    let norm = |is_on: bool| if is_on { "final norm" } else { "no norm" };
    let own_grid = own.grid_size(config.train.data.input_size);
    let seen = student.mask(own_grid).map_or(own_grid * own_grid, |mask| mask.kept());
    let shape = |model: &EncoderSpec, patches: usize| {
        format!("[{} + {patches}, {}]", model.class_tokens, model.dim)
    };
    let projector = match term.projector {
        ProjectorKind::None => "no projector".into(),
        kind => format!("{} to {}", kind.name(), teacher.dim),
    };
    let form = match config.teacher.targets {
        TargetForm::Plain => "",
        TargetForm::Standardised => ", standardised",
    };
    let weight = match term.weight {
        1.0 => String::new(),
        weight => format!("; × {weight}"),
    };
    let text = format!(
        "{}, {}, {}, {projector} | teacher's {}, {}, {}{form} | {}{weight}",
        list(0, own),
        norm(term.norm),
        shape(own, seen),
        list(1, teacher),
        norm(config.teacher.norm),
        shape(teacher, config.teacher_grid_size().pow(2)),
        term.comparison.words()
    );
    (format!("  {}", term.title()), text)
}

/// What the teacher sees, where it is not what its students do.
pub(super) fn sight(config: &DistillConfig) -> Option<(String, String)> {
    let (own, students) = (config.teacher_sees(), config.train.data.input_size);
    (own != students).then(|| {
        let crops = config.crop_size();
        let text = format!(
            "{own} × {own} pixels for the teacher, {students} × {students} for its students, of crops of {crops} × \
             {crops}"
        );
        ("images".into(), text)
    })
}
