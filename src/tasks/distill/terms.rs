//! Which blocks of a student are compared with which of the teacher's, and how.

use super::config::DistillConfig;
use super::losses::{Comparison, LossConfig};
use crate::config::{Check, KeyError, require};
use crate::nn::ProjectorKind;
use crate::tasks::trainee::TraineeConfig;

/// One comparison of a student with the teacher.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Term {
    /// What it is called; none: that of the output.
    pub name: Option<String>,
    pub comparison: Comparison,
    /// What it is multiplied by in the total.
    pub weight: f64,
    pub projector: ProjectorKind,
    /// Whether the student's tokens go through its final norm.
    pub norm: bool,
    /// Blocks of the student, each with the teacher's, counted from 0.
    pub pairs: Vec<[usize; 2]>,
}

/// The comparisons of a student: that of the outputs first, if there is one.
///
/// # Errors
/// A table of the student's own does not fit, or a block is none of the models'.
pub(super) fn terms_of(
    config: &DistillConfig,
    student: &TraineeConfig,
) -> Result<Vec<Term>, KeyError> {
    let loss = config.loss_of(student)?;
    let depths = [student.model.depth, config.teacher.model.depth];
    let mut terms = Vec::new();
    if loss.output().is_any() {
        let LossConfig { weight, projector, .. } = loss;
        let pairs = vec![depths.map(|depth| depth - 1)];
        let comparison = loss.output();
        terms.push(Term { name: None, comparison, weight, projector, norm: true, pairs });
    }
    for (number, term) in loss.terms.iter().enumerate() {
        let pair = |layers: (i64, i64)| -> Result<[usize; 2], KeyError> {
            let key = |name: &str| format!("loss.terms.{number}.{name}");
            let of_teacher = match term.teacher_layers {
                Some(_) => "teacher_layers",
                None => "layers",
            };
            let own = block(layers.0, depths[0]).map_err(|found| {
                (key("layers"), format!("{found} of student `{}`", student.name))
            })?;
            let teachers = block(layers.1, depths[1]).map_err(|found| {
                let hint = match term.teacher_layers {
                    Some(_) => String::new(),
                    None => format!("; {} pairs other blocks", key("teacher_layers")),
                };
                (key(of_teacher), format!("{found} of the teacher{hint}"))
            })?;
            Ok([own, teachers])
        };
        terms.push(Term {
            name: Some(term.name.clone()),
            comparison: term.comparison(),
            weight: term.weight,
            projector: term.projector,
            norm: term.norm,
            pairs: term.pairs().map(pair).collect::<Result<_, _>>()?,
        });
    }
    Ok(terms)
}

/// The block that a configuration calls `layer`, counted from 0.
fn block(layer: i64, depth: usize) -> Result<usize, String> {
    let depth = depth as i64;
    match layer {
        layer if (0..depth).contains(&layer) => Ok(layer as usize),
        layer if (-depth..0).contains(&layer) => Ok((depth + layer) as usize),
        _ => Err(format!(
            "found layer {layer}, expected 0 to {}, or -{depth} to -1 from the end, as there are {depth} blocks",
            depth - 1
        )),
    }
}

impl Term {
    /// Its name in a message: of a student's output where it has none.
    pub fn title(&self) -> String {
        self.name.as_ref().map_or("output".into(), |name| format!("`{name}`"))
    }
}

/// The first contradiction in how students are compared.
///
/// # Errors
/// There is one; its key is the student's own where it is in its own table.
pub(super) fn check_all_terms(config: &DistillConfig) -> Check {
    for (number, student) in config.students.iter().enumerate() {
        check_terms(config, student).map_err(|(key, message)| {
            let mut parts = key.split('.').skip(1);
            // What the shared table says was read before.
            let is_own = parts.next().is_none_or(|first| student.loss.contains_key(first));
            match is_own && !student.loss.is_empty() {
                true => (format!("students.{number}.{key}"), message),
                false => (key, message),
            }
        })?;
    }
    Ok(())
}

fn check_terms(config: &DistillConfig, student: &TraineeConfig) -> Check {
    config.loss_of(student)?.check("loss")?;
    let terms = terms_of(config, student)?;
    let mut number = 0;
    for term in &terms {
        let table = match term.name {
            None => "loss".to_string(),
            Some(_) => {
                number += 1;
                format!("loss.terms.{}", number - 1)
            }
        };
        check_term(config, student, term, &table)?;
    }
    let last = student.model.depth - 1;
    let reaches = |term: &Term| term.norm && term.pairs.iter().any(|[own, _]| *own == last);
    require(terms.iter().any(reaches), "loss.terms", || {
        let title = |term: &Term| {
            let layers: Vec<usize> = term.pairs.iter().map(|[own, _]| *own).collect();
            format!(
                "{} of blocks {layers:?}{}",
                term.title(),
                if term.norm { "" } else { " without norm" }
            )
        };
        let found: Vec<String> = terms.iter().map(title).collect();
        format!(
            "found {}, which leave student `{}` without a gradient at its last block and final norm: expected a \
             distance for loss.class or loss.patch, or -1 among the layers of a term with norm = true",
            found.join(", "),
            student.name
        )
    })
}

/// That the tokens of a term, whose table is `table`, can be compared.
fn check_term(config: &DistillConfig, student: &TraineeConfig, term: &Term, table: &str) -> Check {
    let (own, teachers) = (&student.model, &config.teacher.model);
    let is_wide_enough = term.projector != ProjectorKind::None
        || own.dim == teachers.dim
        || !term.comparison.has_features();
    require(is_wide_enough, format!("{table}.projector"), || {
        format!(
            "found \"none\" between a width of {} of student `{}` and the teacher's {}, expected \"mlp\" or \
             \"linear\", or \"none\" for both {table}.class and {table}.patch: relations need no projector",
            own.dim, student.name, teachers.dim
        )
    })?;
    let has_class = own.class_tokens > 0 && teachers.class_tokens > 0;
    require(has_class || !term.comparison.is_of_class_alone(), format!("{table}.class"), || {
        format!(
            "found \"{}\" and no distance for {table}.patch, but student `{}` has {} class tokens and the teacher {}: \
             expected one",
            term.comparison.class.name(),
            student.name,
            own.class_tokens,
            teachers.class_tokens
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoders::EncoderSpec;
    use crate::tasks::distill::Distance;

    #[test]
    fn layers_are_counted_from_both_ends() {
        let found: Vec<_> = [0, 11, -1, -12].map(|layer| block(layer, 12)).into();
        assert_eq!(found, [Ok(0), Ok(11), Ok(11), Ok(0)]);
        for layer in [12, -13, i64::MIN, i64::MAX] {
            let error = block(layer, 12).unwrap_err();
            assert!(error.contains("0 to 11") && error.contains("-12 to -1"), "{error}");
        }
    }

    /// Models without class tokens in common are compared by their patches, or by relations, or not at all.
    #[test]
    fn class_tokens_alone_need_class_tokens() {
        let size = EncoderSpec { class_tokens: 0, ..EncoderSpec::new(32, 2, 2) };
        let mut config = DistillConfig::minimal("run", EncoderSpec::new(32, 2, 2));
        config.students.push(TraineeConfig::minimal("one", size));
        assert_eq!(check_all_terms(&config), Ok(()));
        config.loss.patch = Distance::None;
        config.loss.gram = Some(1.0);
        let (key, message) = check_all_terms(&config).unwrap_err();
        assert_eq!(key, "loss.class");
        assert!(message.contains("`one` has 0 class tokens and the teacher 8"), "{message}");
        config.loss.class = Distance::None;
        assert_eq!(check_all_terms(&config), Ok(()));
    }
}
