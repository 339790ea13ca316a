//! A step's numbers: summed over all processes on the device, read by the host when it can.

use std::borrow::Cow;

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
    layout: Layout,
}

/// A step's numbers on the host.
pub struct StepNumbers {
    pub trainees: Vec<TraineeMetrics>,
    /// The sums of the processes' own numbers.
    pub sums: [f64; OWN],
    /// Whether all are finite, as an update requires.
    pub are_finite: bool,
}

/// How many numbers each process adds, beside those of the trainees.
const OWN: usize = 3;

/// Averages losses over this process's batches, each with its share of the global batch, and sums
/// them over the processes, together with some numbers of their `own`, in one collective.
pub fn sum_over_ranks(
    group: &ProcessGroup,
    losses: &[(f64, Vec<Losses>)],
    optimizers: &[TraineeOptimizer],
    own: [f64; OWN],
) -> Result<(Verdict, PendingNumbers)> {
    let layout = Layout::of(losses)?;
    let squares = optimizers.iter().map(|l| l.squared_norm(group)).collect::<Result<Vec<_>>>()?;
    let sums = guard(|| layout.pack(losses, &squares, own))?;
    group.sum(&sums)?;
    let (verdict, numbers) = guard(|| {
        let norm = |(index, (trainee_optimizer, square)): (usize, (&TraineeOptimizer, &Tensor))| {
            let whole = if trainee_optimizer.is_sharded() {
                sums.get(layout.squared_norm(index) as i64)
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
    Ok((verdict, PendingNumbers { download: Download::begin(&numbers)?, layout }))
}

impl PendingNumbers {
    /// Waits for the numbers.
    pub fn read(&self, group: &ProcessGroup, names: &[&str]) -> Result<StepNumbers> {
        group.wait_event(self.download.arrived())?;
        Ok(self.layout.unpack(names, &guard(|| self.download.numbers())?))
    }

    /// The event after which the host can read them.
    pub fn arrived(&self) -> &DeviceEvent {
        self.download.arrived()
    }

    /// [`Self::arrived`], consuming the report.
    pub fn into_arrived(self) -> DeviceEvent {
        self.download.into_arrived()
    }
}

/// Which number lies where in the vector that ranks sum: for each trainee its loss and the loss's
/// terms; each trainee's squared gradient norm; what each rank adds of its own. The host reads the
/// sums and, after them, the norm of each trainee's whole gradient.
struct Layout {
    /// Of each trainee, the names of its loss's terms.
    terms: Vec<Vec<Cow<'static, str>>>,
}

impl Layout {
    /// The layout for the losses of a step's batches.
    ///
    /// # Errors
    /// Batches differ in their terms.
    fn of(losses: &[(f64, Vec<Losses>)]) -> Result<Self> {
        let names = |losses: &Losses| losses.terms.iter().map(|(name, _)| name.clone()).collect();
        let mut batches =
            losses.iter().map(|(_, losses)| losses.iter().map(names).collect::<Vec<Vec<_>>>());
        let terms = batches.next().unwrap_or_default();
        ensure!(batches.all(|batch| batch == terms), "the batches of a step differ in loss terms");
        Ok(Self { terms })
    }

    /// How many losses and terms of losses there are.
    fn losses(&self) -> usize {
        self.terms.iter().map(|terms| 1 + terms.len()).sum()
    }

    /// Where the squared gradient norm of the trainee of this index lies.
    fn squared_norm(&self, trainee: usize) -> usize {
        self.losses() + trainee
    }

    /// One rank's vector, float32 on the device.
    fn pack(
        &self,
        losses: &[(f64, Vec<Losses>)],
        squares: &[Tensor],
        own: [f64; OWN],
    ) -> Result<Tensor> {
        let mut sums: Vec<Tensor> = Vec::with_capacity(self.losses() + squares.len());
        for trainee in 0..self.terms.len() {
            let weighted = losses.iter().map(|(share, losses)| {
                losses[trainee].values().map(|value| value * *share).collect::<Vec<_>>()
            });
            let add = |a: Vec<Tensor>, b: Vec<Tensor>| {
                a.into_iter().zip(b).map(|(a, b)| a + b).collect::<Vec<_>>()
            };
            sums.extend(weighted.reduce(add).unwrap_or_default());
        }
        sums.extend(squares.iter().map(Tensor::shallow_clone));
        let floats: Vec<Tensor> = sums.iter().map(|sum| sum.to_kind(Kind::Float)).collect();
        let own = upload(&own.map(|number| number as f32), &[OWN as i64], squares[0].device())?;
        Ok(Tensor::cat(&[Tensor::stack(&floats, 0), own], 0))
    }

    /// What the host reads, given the trainees' names: the sums of [`Self::pack`], then the norms.
    fn unpack(&self, names: &[&str], numbers: &[f32]) -> StepNumbers {
        let are_finite = numbers.iter().all(|number| number.is_finite());
        let numbers: Vec<f64> = numbers.iter().copied().map(f64::from).collect();
        let (mut losses, rest) = numbers.split_at(self.losses());
        let (own, norms) = rest[self.terms.len()..].split_at(OWN);
        let mut trainees = Vec::with_capacity(names.len());
        for ((name, terms), grad_norm) in names.iter().zip(&self.terms).zip(norms) {
            let (of_trainee, others) = losses.split_at(1 + terms.len());
            let values = of_trainee[1..].iter().copied();
            trainees.push(TraineeMetrics {
                name: name.to_string(),
                loss: of_trainee[0],
                terms: terms.iter().map(|term| term.to_string()).zip(values).collect(),
                grad_norm: *grad_norm,
            });
            losses = others;
        }
        StepNumbers { trainees, sums: std::array::from_fn(|which| own[which]), are_finite }
    }
}

/// Ends the run after a loss or gradient that is not finite; the device has skipped that update.
///
/// # Errors
/// A number is not finite; the message says whose, and what helps.
pub fn require_finite(step: u64, numbers: &StepNumbers) -> Result<()> {
    for trainee in &numbers.trainees {
        for (what, value) in [("loss", trainee.loss), ("gradient norm", trainee.grad_norm)] {
            if !value.is_finite() {
                bail!(
                    "the {what} of `{}` is {value} at step {step}, whose update was skipped. Lower optimizer.learning_rate, set \
                     optimizer.clip_grad_norm, or use run.precision = \"fp32\"",
                    trainee.name
                );
            }
        }
    }
    ensure!(numbers.are_finite, "the squared gradient norms of step {step} have no finite sum");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Losses whose total and terms are these numbers.
    fn losses(total: f32, terms: &[(&'static str, f32)]) -> Losses {
        let terms = terms.iter().map(|(name, value)| (Cow::from(*name), Tensor::from(*value)));
        Losses { total: Tensor::from(total), terms: terms.collect() }
    }

    /// Every number comes back under the name that it was given, averaged over batches by their
    /// shares, for trainees with different terms and one with none.
    #[test]
    fn numbers_are_read_as_they_were_packed() {
        let batch = |more: f32| {
            vec![
                losses(1.0 + more, &[("class", 2.0 + more), ("gram", 3.0 + more)]),
                losses(4.0 + more, &[]),
                losses(5.0 + more, &[("patch", 6.0 + more)]),
            ]
        };
        let batches = [(0.25, batch(0.0)), (0.75, batch(4.0))];
        let layout = Layout::of(&batches).unwrap();
        let squares = [9.0f32, 16.0, 25.0].map(Tensor::from);
        let sums = layout.pack(&batches, &squares, [10.0, 11.0, 12.0]).unwrap();
        let norms = Tensor::from_slice(&[20f32, 21., 22.]);
        for (index, square) in squares.iter().enumerate() {
            assert_eq!(sums.get(layout.squared_norm(index) as i64), *square);
        }
        let numbers = Vec::<f32>::try_from(Tensor::cat(&[sums, norms], 0)).unwrap();
        let read = layout.unpack(&["a", "b", "c"], &numbers);
        let expected = [
            ("a", 4.0, vec![("class", 5.0), ("gram", 6.0)], 20.0),
            ("b", 7.0, vec![], 21.0),
            ("c", 8.0, vec![("patch", 9.0)], 22.0),
        ];
        let expected = expected.map(|(name, loss, terms, grad_norm)| {
            let terms = terms.into_iter().map(|(name, value)| (name.to_string(), value));
            TraineeMetrics { name: name.into(), loss, terms: terms.collect(), grad_norm }
        });
        assert_eq!(read.trainees, expected);
        assert_eq!((read.sums, read.are_finite), ([10.0, 11.0, 12.0], true));
        let mut broken = numbers;
        broken[0] = f32::NAN;
        assert!(!layout.unpack(&["a", "b", "c"], &broken).are_finite);
    }

    /// A term that only some of a step's batches have would shift all numbers after it.
    #[test]
    fn batches_with_other_terms_are_refused() {
        let batches = [(0.5, vec![losses(1.0, &[("class", 1.0)])]), (0.5, vec![losses(1.0, &[])])];
        assert!(Layout::of(&batches).is_err());
    }
}
