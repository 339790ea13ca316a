//! Multinomial logistic regression by L-BFGS (Liu and Nocedal, 1989).

use std::collections::VecDeque;

use anyhow::Result;
use tch::{Kind, Tensor};

use super::vectors::{Input, Labelled, accuracies};
use crate::status;

/// A classifier: the least of `strength` · Σ cross-entropy + ½ · Σ weights², its biases free.
pub struct Logistic {
    input: Input,
    /// `[F, C]` float64.
    weight: Tensor,
    /// `[C]` float64.
    bias: Tensor,
}

/// Pairs of steps that stand for the curvature.
const HISTORY: usize = 10;

/// It ends where no slope of the mean loss is larger,
const FLAT: f64 = 1e-5;

/// or after so many steps.
const MOST_STEPS: usize = 1000;

/// Images whose loss is computed at a time.
const BLOCK: i64 = 1 << 13;

impl Logistic {
    /// Fits `images` of `classes` classes. No number is drawn.
    pub fn fit(input: Input, images: &Labelled, classes: i64, strength: f64) -> Self {
        let seen = images.seen(input);
        let width = seen.size()[1];
        let problem = Problem { seen, truth: &images.classes, classes, strength };
        let size = [(width + 1) * classes];
        let start = Tensor::zeros(size, (Kind::Double, images.vectors.device()));
        let found = least(start, |at| problem.loss(at));
        let [weight, bias] = problem.parts(&found);
        Self { input, weight, bias }
    }

    /// The share of `images` that it finds the class of.
    pub fn accuracy(&self, images: &Labelled) -> Result<f64> {
        Ok(accuracies(images, self.input, &self.weight, &self.bias, 1)?[0])
    }
}

struct Problem<'a> {
    seen: Tensor,
    truth: &'a Tensor,
    classes: i64,
    strength: f64,
}

impl Problem<'_> {
    /// Weight and bias of all parameters `[(F + 1) * C]`, in their memory.
    fn parts(&self, at: &Tensor) -> [Tensor; 2] {
        let all = at.view([-1, self.classes]);
        let width = all.size()[0] - 1;
        [all.narrow(0, 0, width), all.get(width)]
    }

    /// Mean cross-entropy + Σ weights² / (2 · strength · N), and its gradient.
    fn loss(&self, at: &Tensor) -> (f64, Tensor) {
        let [weight, bias] = self.parts(at);
        let rows = self.seen.size()[0];
        let decay = 1.0 / (self.strength * rows as f64);
        let gradient = at.zeros_like();
        let [of_weight, of_bias] = &mut self.parts(&gradient);
        *of_weight += &weight * decay;
        let mut loss = 0.5 * decay * weight.square().sum(Kind::Double).double_value(&[]);
        for first in (0..rows).step_by(BLOCK as usize) {
            let count = BLOCK.min(rows - first);
            let seen = self.seen.narrow(0, first, count).to_kind(Kind::Double);
            let truth = self.truth.narrow(0, first, count).unsqueeze(1);
            let logarithms = (seen.matmul(&weight) + &bias).log_softmax(1, Kind::Double);
            let own = logarithms.gather(1, &truth, false).sum(Kind::Double).double_value(&[]);
            loss -= own / rows as f64;
            let mut slope = logarithms.exp();
            let ones = truth.full_like(-1.0).to_kind(Kind::Double);
            let _ = slope.scatter_add_(1, &truth, &ones);
            let slope = slope / rows as f64;
            *of_weight += seen.tr().matmul(&slope);
            *of_bias += slope.sum_dim_intlist([0].as_slice(), false, Kind::Double);
        }
        status::beat();
        (loss, gradient)
    }
}

fn product(a: &Tensor, b: &Tensor) -> f64 {
    a.dot(b).double_value(&[])
}

/// Where the convex `function`, which gives value and gradient, is least.
fn least(start: Tensor, function: impl Fn(&Tensor) -> (f64, Tensor)) -> Tensor {
    let mut at = start;
    let (mut value, mut gradient) = function(&at);
    let mut pairs: VecDeque<(Tensor, Tensor)> = VecDeque::new();
    for _ in 0..MOST_STEPS {
        if gradient.abs().max().double_value(&[]) <= FLAT {
            break;
        }
        let direction = direction(&gradient, &pairs);
        let first = if pairs.is_empty() { 1.0 / product(&gradient, &gradient).sqrt() } else { 1.0 };
        let Some((step, next_value, next_gradient)) =
            search(&function, &at, value, &gradient, &direction, first)
        else {
            // No step is better: rounding is all that is left.
            break;
        };
        let change = direction * step;
        let bend = &next_gradient - &gradient;
        if pairs.len() == HISTORY {
            pairs.pop_front();
        }
        at += &change;
        pairs.push_back((change, bend));
        (value, gradient) = (next_value, next_gradient);
    }
    at
}

/// Minus the inverse curvature that the pairs of steps and changes of slope tell, times the gradient.
fn direction(gradient: &Tensor, pairs: &VecDeque<(Tensor, Tensor)>) -> Tensor {
    let mut direction = -gradient;
    let mut shares = Vec::new();
    for (change, bend) in pairs.iter().rev() {
        let share = product(change, &direction) / product(change, bend);
        direction -= bend * share;
        shares.push(share);
    }
    if let Some((change, bend)) = pairs.back() {
        direction *= product(change, bend) / product(bend, bend);
    }
    for ((change, bend), share) in pairs.iter().zip(shares.into_iter().rev()) {
        direction += change * (share - product(bend, &direction) / product(change, bend));
    }
    direction
}

/// Shares of the first slope: what the value has to fall by, and what the slope may be at most
/// (the conditions of Wolfe, 1969).
const FALL: f64 = 1e-4;
const SLOPE: f64 = 0.9;

/// A step along `direction`, found by halving and doubling, with value and gradient there.
fn search(
    function: impl Fn(&Tensor) -> (f64, Tensor),
    at: &Tensor,
    value: f64,
    gradient: &Tensor,
    direction: &Tensor,
    first: f64,
) -> Option<(f64, f64, Tensor)> {
    let slope = product(gradient, direction);
    let (mut low, mut high, mut step) = (0.0, f64::INFINITY, first);
    for _ in 0..60 {
        let (there, its_gradient) = function(&(at + direction * step));
        if there.is_nan() || there > value + FALL * step * slope {
            high = step;
        } else if product(&its_gradient, direction) < SLOPE * slope {
            low = step;
        } else {
            return Some((step, there, its_gradient));
        }
        step = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * step };
    }
    None
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// The least of a bent function whose axes differ a thousandfold, against the known place.
    #[test]
    fn the_least_is_found() {
        let scales = Tensor::from_slice(&[1000.0, 1.0, 30.0, 0.5]);
        let place = Tensor::from_slice(&[1.0, -2.0, 3.0, -4.0]);
        let start = Tensor::zeros([4], (Kind::Double, Device::Cpu));
        let found = least(start, |at| {
            let away = at - &place;
            let value = (&scales * away.square()).sum(Kind::Double) * 0.5;
            let quartic = away.square().square().sum(Kind::Double) * 0.25;
            (f64::try_from(value + quartic).unwrap(), &scales * &away + away.pow_tensor_scalar(3))
        });
        let error = (found - place).abs().max().double_value(&[]);
        assert!(error < 1e-4, "{error}");
    }
}
