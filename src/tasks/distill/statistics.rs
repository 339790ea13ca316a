//! Mean and deviation of the teacher's features, by which targets are standardised.

use tch::{Kind, Tensor};

use super::losses::Tokens;
use crate::nn::{Parameters, Projector};

/// A deviation is at least this share of the mean one, so that a feature that hardly varies is not blown up.
const LEAST_DEVIATION: f64 = 1e-3;

/// Mean and deviation of each feature of the teacher's tokens after a block, of class tokens and patch tokens apart.
/// They are parameters that training leaves as they are, so that checkpoints have them.
pub(super) struct TargetStatistics {
    class: Moments,
    patch: Moments,
}

/// `[D]` each.
struct Moments {
    mean: Tensor,
    deviation: Tensor,
}

impl TargetStatistics {
    /// Those of the teacher's `block`, of width `dim`: 0 and 1 until they are [`Self::set`].
    pub fn new(parameters: &mut Parameters, block: usize, dim: i64) -> Self {
        let scope = format!("{}.targets.{block}", Projector::SCOPE);
        parameters.scoped(&scope, |parameters| Self {
            class: Moments::new(parameters, "class", dim),
            patch: Moments::new(parameters, "patch", dim),
        })
    }

    /// `(target − mean) / deviation` for each feature.
    pub fn standardise(&self, targets: Tokens) -> Tokens {
        let Tokens { class, patch } = targets;
        Tokens { class: self.class.standardise(&class), patch: self.patch.standardise(&patch) }
    }

    /// Takes over what was summed up; of a kind of tokens that the teacher does not have, nothing.
    pub fn set(&self, sums: &TargetSums) {
        for (moments, sums) in [(&self.class, sums.of(0)), (&self.patch, sums.of(1))] {
            moments.set(&sums);
        }
    }
}

impl Moments {
    fn new(parameters: &mut Parameters, kind: &str, dim: i64) -> Self {
        let options = (Kind::Float, tch::Device::Cpu);
        parameters.scoped(kind, |parameters| Self {
            mean: parameters.fixed("mean", &[dim], || Tensor::zeros([dim], options)),
            deviation: parameters.fixed("deviation", &[dim], || Tensor::ones([dim], options)),
        })
    }

    fn standardise(&self, tokens: &Tensor) -> Tensor {
        (tokens - &self.mean) / &self.deviation
    }

    /// From `[2, D]` sums and sums of squares with their number behind them, `[2, D+1]` float64.
    fn set(&self, sums: &Tensor) {
        let dim = self.mean.size()[0];
        let count = sums.get(0).double_value(&[dim]);
        if count == 0.0 {
            return;
        }
        let [mean, square] = [0, 1].map(|row| sums.get(row).narrow(0, 0, dim) / count);
        let deviation = (square - mean.square()).clamp_min(0.0).sqrt();
        let least = (deviation.mean(Kind::Double) * LEAST_DEVIATION).clamp_min(f64::MIN_POSITIVE);
        let deviation = deviation.maximum(&least);
        self.mean.shallow_clone().copy_(&mean);
        self.deviation.shallow_clone().copy_(&deviation.to_kind(Kind::Float).clamp_min(1e-12));
    }
}

/// Sums over the teacher's tokens after a block, for class tokens and patch tokens: of each feature and its square,
/// and behind them how many tokens there were. `[2, 2, D+1]` float64 on the device.
pub(super) struct TargetSums(pub Tensor);

impl TargetSums {
    /// None yet, of width `dim`.
    pub fn zeros(dim: i64, device: tch::Device) -> Self {
        Self(Tensor::zeros([2, 2, dim + 1], (Kind::Double, device)))
    }

    /// Adds all tokens of a batch.
    pub fn add(&mut self, targets: &Tokens) {
        for (kind, tokens) in [&targets.class, &targets.patch].into_iter().enumerate() {
            let features = tokens.to_kind(Kind::Double).flatten(0, 1);
            let (count, dim) = features.size2().expect("tokens are [B, T, D]");
            let sum = |values: &Tensor| values.sum_dim_intlist(0, false, Kind::Double);
            for (row, sums) in [sum(&features), sum(&features.square())].iter().enumerate() {
                let place = self.0.get(kind as i64).get(row as i64);
                let _ = place.narrow(0, 0, dim).g_add_(sums);
                let _ = place.narrow(0, dim, 1).g_add_scalar_(count as f64);
            }
        }
    }

    /// `[2, D+1]` of one kind of tokens.
    fn of(&self, kind: i64) -> Tensor {
        self.0.get(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Storage;
    use tch::Device;

    /// Added batch by batch, mean and deviation are libtorch's over all tokens; a feature that hardly varies is not
    /// blown up, and tokens that the teacher does not have change nothing.
    #[test]
    fn batches_give_the_statistics_of_all_tokens() {
        let numbers = Tensor::arange(4 * 6 * 3, (Kind::Float, Device::Cpu)).view([4, 6, 3]).sin();
        let scales = Tensor::from_slice(&[1f32, 50.0, 1e-7]);
        let patch = (numbers + 3.0) * scales;
        let class = Tensor::zeros([4, 0, 3], (Kind::Float, Device::Cpu));
        let mut sums = TargetSums::zeros(3, Device::Cpu);
        for (from, count) in [(0, 1), (1, 3)] {
            let [class, patch] = [&class, &patch].map(|tokens| tokens.narrow(0, from, count));
            sums.add(&Tokens { class, patch });
        }
        let (device, matrices) = (Device::Cpu, Kind::Float);
        let storage = Storage::Drawn { device, matrices, seed: 0, rng_stream: 0 };
        let mut parameters = Parameters::new(storage);
        let statistics = TargetStatistics::new(&mut parameters, 7, 3);
        assert_eq!(parameters.named()[2].0, "last_proj.targets.7.patch.mean");
        assert!(parameters.trained().is_empty());
        statistics.set(&sums);
        let found = statistics.standardise(Tokens { class, patch: patch.shallow_clone() });
        let mean = patch.mean_dim([0i64, 1].as_slice(), true, Kind::Float);
        let deviation = patch.std_dim([0i64, 1].as_slice(), false, true);
        let expected = (&patch - mean) / deviation;
        let off = (&found.patch - expected).abs();
        assert!(off.narrow(2, 0, 2).max().double_value(&[]) < 1e-4);
        let largest = found.patch.narrow(2, 2, 1).abs().max().double_value(&[]);
        assert!(largest < 1e-3, "a feature that hardly varies became {largest}");
        let values = |name: usize| Vec::<f32>::try_from(&parameters.named()[name].1).unwrap();
        assert_eq!((values(0), values(1)), (vec![0.0; 3], vec![1.0; 3]), "no class tokens");
    }
}
