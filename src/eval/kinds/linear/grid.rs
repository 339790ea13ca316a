//! Many linear classifiers trained at once by stochastic gradient descent, after DINOv2's protocol
//! (Oquab et al., 2023): one for each learning rate, all by one matrix product.

use std::f64::consts::PI;

use anyhow::Result;
use tch::{Kind, Tensor};

use super::vectors::{Input, Labelled, accuracies};
use crate::draws::{Draws, Purpose};
use crate::status;

/// How the classifiers are trained.
pub struct Plan<'a> {
    /// Each for a batch of [`REFERENCE_BATCH`], from which it grows with the batch.
    pub learning_rates: &'a [f64],
    /// Number of updates.
    pub steps: u64,
    /// Images in one update.
    pub batch: i64,
    pub seed: u64,
}

/// The batch that learning rates are given for.
const REFERENCE_BATCH: f64 = 256.0;

/// Share of the last change that an update goes on with.
const MOMENTUM: f64 = 0.9;

/// Classifiers of one input, G of them for C classes.
pub struct Heads {
    input: Input,
    /// `[F, G * C]`.
    weight: Tensor,
    /// `[G * C]`.
    bias: Tensor,
    count: i64,
}

impl Heads {
    /// Trains on `images` of `classes` classes: cross-entropy, momentum, a cosine to nothing, no weight
    /// decay. All see the same batches, in permutations that follow from the seed.
    pub fn train(plan: &Plan<'_>, input: Input, images: &Labelled, classes: i64) -> Self {
        let mut heads = Self::zero(plan.learning_rates.len() as i64, input, images, classes);
        let device = images.vectors.device();
        let seen = images.seen(input);
        let batch = plan.batch.min(images.count());
        let scale = batch as f64 / REFERENCE_BATCH;
        let rates: Vec<f32> =
            plan.learning_rates.iter().map(|rate| (rate * scale) as f32).collect();
        let rates = Tensor::from_slice(&rates)
            .to_device(device)
            .repeat_interleave_self_int(classes, 0, None);
        let mut order =
            Order { seed: plan.seed, pass: 0, rows: vec![], count: images.count() as usize };
        let mut speed = [heads.weight.zeros_like(), heads.bias.zeros_like()];
        for step in 0..plan.steps {
            let rows = Tensor::from_slice(&order.take(batch as usize)).to_device(device);
            let gradients = heads
                .gradients(&seen.index_select(0, &rows), &images.classes.index_select(0, &rows));
            let rates = &rates * (0.5 * (1.0 + (PI * step as f64 / plan.steps as f64).cos()));
            for ((speed, gradient), parameter) in
                speed.iter_mut().zip(gradients).zip([&mut heads.weight, &mut heads.bias])
            {
                *speed = &*speed * MOMENTUM + gradient;
                *parameter -= &*speed * &rates;
            }
            status::beat();
        }
        heads
    }

    /// The loss is convex, so that nothing is gained by drawing where they begin.
    fn zero(count: i64, input: Input, images: &Labelled, classes: i64) -> Self {
        let seen = images.seen(input);
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, seen.device()));
        let weight = zeros(&[seen.size()[1], count * classes]);
        Self { input, weight, bias: zeros(&[count * classes]), count }
    }

    /// Those of the sum over the heads of their mean cross-entropy, for weight and bias: softmax less truth.
    fn gradients(&self, seen: &Tensor, truth: &Tensor) -> [Tensor; 2] {
        let rows = seen.size()[0];
        let scores = (seen.matmul(&self.weight) + &self.bias).view([rows, self.count, -1]);
        let mut slope = scores.softmax(2, Kind::Float);
        let ones = Tensor::full([rows, self.count, 1], -1.0, (Kind::Float, seen.device()));
        let truth = truth.view([rows, 1, 1]).expand([rows, self.count, 1], false);
        let _ = slope.scatter_add_(2, &truth, &ones);
        let slope = slope.view([rows, -1]) / rows as f64;
        [seen.tr().matmul(&slope), slope.sum_dim_intlist([0].as_slice(), false, Kind::Float)]
    }

    /// The share of `images` that each finds the class of, in the order of the learning rates.
    pub fn accuracies(&self, images: &Labelled) -> Result<Vec<f64>> {
        accuracies(images, self.input, &self.weight, &self.bias, self.count)
    }
}

/// An endless stream of rows, a permutation after another.
struct Order {
    seed: u64,
    pass: u64,
    /// What is left of the pass, from its end.
    rows: Vec<i64>,
    count: usize,
}

impl Order {
    fn take(&mut self, most: usize) -> Vec<i64> {
        let mut taken = Vec::with_capacity(most);
        while taken.len() < most {
            if self.rows.is_empty() {
                let mut draws = Draws::new(self.seed, Purpose::Order, 0, self.pass);
                let order = draws.choose(self.count, self.count);
                self.rows = order.into_iter().map(|row| row as i64).collect();
                self.pass += 1;
            }
            let left = self.rows.len().saturating_sub(most - taken.len());
            taken.extend(self.rows.drain(left..));
        }
        taken
    }
}
