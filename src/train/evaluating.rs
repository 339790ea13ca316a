//! Evaluations of what is trained, made while it is trained: when they are due, which weights are the best.

use anyhow::Result;

use crate::artifacts::{EvaluationLine, Measurement};

/// Evaluations that all processes make together now and then.
pub struct Evaluating<'a> {
    pub due: Vec<Due>,
    /// The figures that the evaluation at this place finds of the weights as they are; none where a signal
    /// ended it.
    pub measure: Box<dyn Fn(usize) -> Result<Option<Vec<Measurement>>> + 'a>,
    /// The figure by which checkpoints are kept.
    pub best: Option<BestBy>,
}

/// An evaluation and when it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Its key under `[evaluation]`.
    pub name: String,
    /// Steps between two.
    pub every: u64,
    /// Tells its settings and images from any others.
    pub of: String,
}

impl Due {
    /// Whether the figures of `line` are this evaluation's, of the same images.
    pub fn is_of(&self, line: &EvaluationLine) -> bool {
        self.name == line.evaluation && line.of.as_ref().is_none_or(|of| *of == self.of)
    }
}

/// A figure by which weights are compared: the mean over all that is trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BestBy {
    pub evaluation: String,
    pub metric: String,
}

/// The best figure so far.
#[derive(Debug)]
pub struct Best<'a> {
    by: &'a BestBy,
    /// The figure, and the step that has it.
    so_far: Option<(f64, u64)>,
}

impl Evaluating<'_> {
    /// Places of the evaluations that are due after `step`.
    pub fn due_after(&self, step: u64) -> Vec<usize> {
        let is_due = |(_, due): &(usize, &Due)| step > 0 && step.is_multiple_of(due.every);
        self.due.iter().enumerate().filter(is_due).map(|(place, _)| place).collect()
    }
}

impl<'a> Best<'a> {
    /// The best of what was found `before`, earlier first.
    pub fn of(by: &'a BestBy, before: &[EvaluationLine]) -> Self {
        let mut best = Self { by, so_far: None };
        for line in before {
            best.offer(line);
        }
        best
    }

    /// Whether `line` has the best figure so far; of equal ones the first is.
    pub fn offer(&mut self, line: &EvaluationLine) -> bool {
        let own = line.measurements.iter().filter(|one| one.metric == self.by.metric);
        let values: Vec<f64> = own.map(|one| one.value).collect();
        if line.evaluation != self.by.evaluation || values.is_empty() {
            return false;
        }
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let is_best = mean.is_finite() && self.so_far.is_none_or(|(best, _)| mean > best);
        if is_best {
            self.so_far = Some((mean, line.step));
        }
        is_best
    }

    /// The step that has it.
    pub fn step(&self) -> Option<u64> {
        self.so_far.map(|(_, step)| step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::Role;

    fn line(step: u64, evaluation: &str, values: [f64; 2]) -> EvaluationLine {
        let measurement = |(encoder, value): (&str, f64)| Measurement {
            encoder: encoder.into(),
            role: Role::Trained,
            metric: "top1_k10".into(),
            value,
            detail: None,
        };
        let measurements = ["a", "b"].into_iter().zip(values).map(measurement).collect();
        EvaluationLine {
            time: 0.0,
            step,
            evaluation: evaluation.into(),
            seconds: 1.0,
            measurements,
            of: None,
        }
    }

    /// The best is by the mean over all that is trained, of one evaluation alone, and the first of equals.
    #[test]
    fn the_first_of_the_highest_means_is_the_best() {
        let by = BestBy { evaluation: "knn".into(), metric: "top1_k10".into() };
        let before =
            [line(2, "knn", [0.5, 0.5]), line(4, "knn", [0.9, 0.3]), line(4, "other", [1.0; 2])];
        let mut best = Best::of(&by, &before);
        assert_eq!(best.step(), Some(4));
        assert!(!best.offer(&line(6, "knn", [0.6, 0.6])));
        assert!(!best.offer(&line(8, "knn", [f64::NAN, 1.0])));
        assert!(best.offer(&line(10, "knn", [0.2, 1.0 + 1e-3])));
        assert_eq!(best.step(), Some(10));
        assert_eq!(Best::of(&by, &before[2..]).step(), None);
    }

    #[test]
    fn evaluations_are_due_by_their_own_steps() {
        let due = |name: &str, every| Due { name: name.into(), every, of: String::new() };
        let evaluating = Evaluating {
            due: vec![due("a", 4), due("b", 6)],
            measure: Box::new(|_| Ok(None)),
            best: None,
        };
        let found = [0, 4, 6, 9, 12].map(|step| evaluating.due_after(step));
        assert_eq!(found, [vec![], vec![0], vec![1], vec![], vec![0, 1]]);
    }
}
