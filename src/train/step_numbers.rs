//! A step's numbers: summed over all processes on the device, read by the host when it can.

use anyhow::{Result, bail, ensure};
use tch::{Kind, Tensor};

use super::trainee_optimizer::TraineeOptimizer;
use crate::artifacts::TraineeMetrics;
use crate::dist::ProcessGroup;
use crate::native::{DeviceEvent, Download, guard, upload};
use crate::train::objective::Losses;

/// Whether and how a step's update is done, decided on the device, which the host does not wait for.
pub struct Verdict {
    /// The norm of each trainee's whole gradient, a scalar.
    pub norms: Vec<Tensor>,
    /// A scalar: 1 where the weights must stay as they are, since a loss or a gradient is no finite
    /// number, else 0.
    pub skip: Tensor,
}

/// A step's numbers on their way to the host.
pub struct PendingNumbers {
    download: Download,
    /// Of each trainee, whether it has a class and a patch loss.
    parts: Vec<[bool; 2]>,
}

/// A step's numbers on the host.
pub struct StepNumbers {
    pub trainees: Vec<TraineeMetrics>,
    /// The sums of what each process gave of its own.
    pub sums: [f64; OWN],
    /// All are finite, as the device requires for an update.
    pub are_finite: bool,
}

/// How many numbers of its own each process adds.
const OWN: usize = 3;

/// Averages losses over this process's batches, each with its share of the global batch, and sums
/// them over the processes, together with some numbers of their `own`, in one collective.
///
/// # Errors
/// A process failed.
pub fn sum_over_ranks(
    group: &ProcessGroup,
    losses: &[(f64, Vec<Losses>)],
    optimizers: &[TraineeOptimizer],
    own: [f64; OWN],
) -> Result<(Verdict, PendingNumbers)> {
    let squares = optimizers.iter().map(|l| l.squared_norm(group)).collect::<Result<Vec<_>>>()?;
    let sums = guard(|| local_sums(losses, optimizers, &squares, own))?;
    group.sum(&sums)?;
    let trainees = optimizers.len();
    let (verdict, numbers) = guard(|| {
        let norm = |(index, (trainee_optimizer, square)): (usize, (&TraineeOptimizer, &Tensor))| {
            let whole = if trainee_optimizer.is_sharded() {
                sums.get((3 * trainees + index) as i64)
            } else {
                square.shallow_clone()
            };
            whole.sqrt()
        };
        let norms: Vec<Tensor> = optimizers.iter().zip(&squares).enumerate().map(norm).collect();
        let numbers = Tensor::cat(&[&sums, &Tensor::stack(&norms, 0)], 0);
        let skip = numbers.isfinite().all().logical_not().to_kind(Kind::Float);
        Ok((Verdict { norms, skip }, numbers))
    })?;
    let parts = losses.first().map_or(&[][..], |(_, losses)| losses);
    let parts = parts.iter().map(|losses| [losses.class.is_some(), losses.patch.is_some()]);
    Ok((verdict, PendingNumbers { download: Download::begin(&numbers)?, parts: parts.collect() }))
}

impl PendingNumbers {
    /// Waits for the numbers.
    ///
    /// # Errors
    /// A process failed.
    pub fn read(&self, group: &ProcessGroup, names: &[&str]) -> Result<StepNumbers> {
        group.wait_event(self.download.arrived())?;
        let numbers = guard(|| self.download.numbers())?;
        let count = self.parts.len();
        let own = 4 * count;
        let on = |has: bool, value: f32| has.then_some(f64::from(value));
        let trainees = names.iter().zip(&self.parts).enumerate().map(|(index, (name, has))| {
            let [total, class, patch] = [0, 1, 2].map(|which| numbers[3 * index + which]);
            TraineeMetrics {
                name: name.to_string(),
                loss: f64::from(total),
                loss_class: on(has[0], class),
                loss_patch: on(has[1], patch),
                grad_norm: f64::from(numbers[own + OWN + index]),
            }
        });
        let sums = std::array::from_fn(|which| f64::from(numbers[own + which]));
        let are_finite = numbers.iter().all(|number| number.is_finite());
        Ok(StepNumbers { trainees: trainees.collect(), sums, are_finite })
    }

    /// When the device had them.
    pub fn arrived(&self) -> &DeviceEvent {
        self.download.arrived()
    }

    /// [`Self::arrived`] for longer than the rest.
    pub fn into_arrived(self) -> DeviceEvent {
        self.download.into_arrived()
    }
}

/// Three losses a trainee, then the square of each gradient norm, then `own`.
fn local_sums(
    losses: &[(f64, Vec<Losses>)],
    optimizers: &[TraineeOptimizer],
    squares: &[Tensor],
    own: [f64; OWN],
) -> Result<Tensor> {
    let mean = |pick: fn(&Losses) -> &Tensor, trainee: usize| {
        losses.iter().map(|(share, losses)| pick(&losses[trainee]) * *share).reduce(|a, b| a + b)
    };
    // Where there is no such part, the total takes its place.
    let parts: [fn(&Losses) -> &Tensor; 3] = [
        |losses| &losses.total,
        |losses| losses.class.as_ref().unwrap_or(&losses.total),
        |losses| losses.patch.as_ref().unwrap_or(&losses.total),
    ];
    let trainees = 0..optimizers.len();
    let mut sums: Vec<Tensor> = trainees
        .flat_map(|trainee| parts.iter().filter_map(move |pick| mean(*pick, trainee)))
        .collect();
    sums.extend(squares.iter().map(Tensor::shallow_clone));
    let floats: Vec<Tensor> = sums.iter().map(|sum| sum.to_kind(Kind::Float)).collect();
    let own = upload(&own.map(|number| number as f32), &[OWN as i64], squares[0].device())?;
    Ok(Tensor::cat(&[Tensor::stack(&floats, 0), own], 0))
}

/// A loss or gradient that is no number would spoil the weights: the device has skipped that update,
/// and this ends the run.
///
/// # Errors
/// There is one; the message says whose, and what helps.
pub fn require_finite(step: u64, numbers: &StepNumbers) -> Result<()> {
    for trainee in &numbers.trainees {
        for (what, value) in [("loss", trainee.loss), ("gradient norm", trainee.grad_norm)] {
            if !value.is_finite() {
                bail!(
                    "the {what} of `{}` is {value} at step {step}; the last checkpoint is \
                     from before that. Lower optimizer.learning_rate, set \
                     optimizer.clip_grad_norm, or use run.precision = \"fp32\"",
                    trainee.name
                );
            }
        }
    }
    ensure!(numbers.are_finite, "the squared gradient norms of step {step} have no finite sum");
    Ok(())
}
