//! A step's numbers: over all processes, and on the host.

use anyhow::{Result, bail};
use tch::{Kind, Tensor};

use super::learner::Learner;
use super::metrics::StudentMetrics;
use crate::config::{Distance, LossConfig};
use crate::dist::Team;
use crate::native::guard;
use crate::objective::Losses;

/// A step's numbers on the host, and the gradient norms that stay on the device for clipping.
pub struct Report {
    pub students: Vec<StudentMetrics>,
    pub norms: Vec<Tensor>,
    /// The sums of what each process gave of its own.
    pub sums: [f64; 3],
}

/// Averages losses over this process's batches, each with its share of the global batch, and sums
/// them over the processes, together with some numbers of their `own`, in one collective; brings all
/// to the host, with the gradient norms, in one copy.
///
/// # Errors
/// A process failed.
pub fn report(
    team: &Team,
    names: &[&str],
    losses: &[(f64, Vec<Losses>)],
    learners: &[Learner],
    own: [f64; 3],
    config: &LossConfig,
) -> Result<Report> {
    let squares = learners.iter().map(|l| l.squared_norm(team)).collect::<Result<Vec<_>>>()?;
    let sums = guard(|| Ok(local_sums(losses, learners, &squares, own)))?;
    team.sum(&sums)?;
    let (norms, numbers) = guard(|| {
        let students = learners.len() as i64;
        let norm = |(index, (learner, square)): (usize, (&Learner, &Tensor))| {
            let whole = if learner.is_sharded() {
                sums.get(3 * students + index as i64)
            } else {
                square.shallow_clone()
            };
            whole.sqrt()
        };
        let norms: Vec<Tensor> = learners.iter().zip(&squares).enumerate().map(norm).collect();
        let numbers = Tensor::cat(&[&sums, &Tensor::stack(&norms, 0)], 0);
        Ok((norms, numbers))
    })?;
    team.settle()?;
    let numbers = guard(|| Ok(Vec::<f32>::try_from(numbers)?))?;
    let count = learners.len();
    let sums = [0, 1, 2].map(|which| f64::from(numbers[4 * count + which]));
    let on = |distance, value: f32| (distance != Distance::None).then_some(f64::from(value));
    let students = names.iter().enumerate().map(|(index, name)| {
        let [total, class, patch] = [0, 1, 2].map(|which| numbers[3 * index + which]);
        StudentMetrics {
            name: name.to_string(),
            loss: f64::from(total),
            loss_class: on(config.class, class),
            loss_patch: on(config.patch, patch),
            grad_norm: f64::from(numbers[4 * count + sums.len() + index]),
        }
    });
    Ok(Report { students: students.collect(), norms, sums })
}

/// Three losses a student, then the square of each gradient norm, then `own`.
fn local_sums(
    losses: &[(f64, Vec<Losses>)],
    learners: &[Learner],
    squares: &[Tensor],
    own: [f64; 3],
) -> Tensor {
    let mean = |pick: fn(&Losses) -> &Tensor, student: usize| {
        losses.iter().map(|(share, losses)| pick(&losses[student]) * *share).reduce(|a, b| a + b)
    };
    let parts: [fn(&Losses) -> &Tensor; 3] =
        [|losses| &losses.total, |losses| &losses.class, |losses| &losses.patch];
    let students = 0..learners.len();
    let mut sums: Vec<Tensor> = students
        .flat_map(|student| parts.iter().filter_map(move |pick| mean(*pick, student)))
        .collect();
    sums.extend(squares.iter().map(Tensor::shallow_clone));
    let device = squares[0].device();
    sums.extend(own.map(|number| Tensor::from(number).to_device(device)));
    let floats: Vec<Tensor> = sums.iter().map(|sum| sum.to_kind(Kind::Float)).collect();
    Tensor::stack(&floats, 0)
}

/// A loss or gradient that is no number would spoil the weights, so it ends the run before the
/// update.
///
/// # Errors
/// There is one; the message says whose, and what helps.
pub fn require_finite(step: u64, students: &[StudentMetrics]) -> Result<()> {
    for student in students {
        for (what, value) in [("loss", student.loss), ("gradient norm", student.grad_norm)] {
            if !value.is_finite() {
                bail!(
                    "the {what} of student `{}` is {value} at step {step}; the last checkpoint is \
                     from before that. Lower optimizer.learning_rate, set \
                     optimizer.clip_grad_norm, or use run.precision = \"fp32\"",
                    student.name
                );
            }
        }
    }
    Ok(())
}
