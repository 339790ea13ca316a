//! The linear head: a batch norm and a 1×1 convolution, nothing else.
//!
//! | tensor | shape | |
//! | --- | --- | --- |
//! | `norm.weight`, `norm.bias` | `[C]` | batch norm over images and places of all ranks |
//! | `norm.running_mean`, `norm.running_var` | `[C]` | its values at test time |
//! | `predict.weight`, `predict.bias` | `[K, C, 1, 1]`, `[K]` | |
//!
//! The maps come from a frozen encoder, so nothing asks for a gradient through the statistics: each
//! rank adds up its own numbers, and sums over ranks make the statistics of the global batch.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::convolution::Convolution;
use super::head::{Head, Pass};
use crate::dist::ProcessGroup;
use crate::native::guard;
use crate::nn::{Init, Parameters};

const EPS: f64 = 1e-5;
/// Weight of the newest statistics in the running ones.
const MOMENTUM: f64 = 0.1;

/// The head. Fields are named as its tensors.
pub(super) struct Linear {
    norm: BatchNorm,
    predict: Convolution,
}

struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

impl Linear {
    /// From `features` to `outputs` channels.
    pub fn new(parameters: &mut Parameters, features: i64, outputs: i64) -> Self {
        let norm = parameters.scoped("norm", |parameters| {
            let weight = parameters.tensor("weight", &[features], Init::Ones);
            let options = (Kind::Float, weight.device());
            BatchNorm {
                bias: parameters.tensor("bias", &[features], Init::Zeros),
                running_mean: Tensor::zeros([features], options),
                running_var: Tensor::ones([features], options),
                weight,
            }
        });
        let predict = Convolution::new(parameters, "predict", [features, outputs], 1, true);
        Self { norm, predict }
    }
}

impl Head for Linear {
    fn output(&self, maps: &[Tensor], pass: Pass<'_>, compute: Kind) -> Result<Tensor> {
        let map = &maps[0];
        let (mean, variance) = match pass {
            Pass::Training(group) => self.norm.observe(map, group)?,
            Pass::Test => {
                (self.norm.running_mean.shallow_clone(), self.norm.running_var.shallow_clone())
            }
        };
        let per_channel = |tensor: &Tensor| tensor.view([1, -1, 1, 1]);
        let scale = (variance + EPS).rsqrt();
        let normed = (map - per_channel(&mean)) * per_channel(&scale);
        let normed = normed * per_channel(&self.norm.weight) + per_channel(&self.norm.bias);
        Ok(self.predict.forward(&normed, 1, 0, compute).to_kind(Kind::Float))
    }

    fn joins_images(&self) -> bool {
        true
    }

    fn buffers(&self) -> Vec<(String, Tensor)> {
        let BatchNorm { running_mean, running_var, .. } = &self.norm;
        [("norm.running_mean", running_mean), ("norm.running_var", running_var)]
            .map(|(name, tensor)| (name.to_string(), tensor.shallow_clone()))
            .into()
    }
}

impl BatchNorm {
    /// Mean and variance of each channel of `map` `[B, C, h, w]` over all ranks, `[C]`, which also go
    /// into the running ones (there the variance is the unbiased one).
    fn observe(&self, map: &Tensor, group: &ProcessGroup) -> Result<(Tensor, Tensor)> {
        let places = [0i64, 2, 3];
        let (batch, channels, height, width) = map.size4()?;
        let sums = guard(|| {
            let sum = map.sum_dim_intlist(places.as_slice(), false, Kind::Double);
            let count = Tensor::full([1], (batch * height * width) as f64, sum_options(&sum));
            Ok(Tensor::cat(&[sum, count], 0))
        })?;
        group.sum(&sums)?;
        let (mean, count, squares) = guard(|| {
            let count = sums.narrow(0, channels, 1);
            let mean = sums.narrow(0, 0, channels) / &count;
            let centred = map - mean.to_kind(Kind::Float).view([1, -1, 1, 1]);
            let squares = centred.square().sum_dim_intlist(places.as_slice(), false, Kind::Double);
            Ok((mean, count, squares))
        })?;
        group.sum(&squares)?;
        guard(|| {
            let variance = &squares / &count;
            let unbiased = &squares / (&count - 1.0).clamp_min(1.0);
            tch::no_grad(|| {
                for (running, new) in [(&self.running_mean, &mean), (&self.running_var, &unbiased)]
                {
                    let _ = running.shallow_clone().lerp_(&new.to_kind(Kind::Float), MOMENTUM);
                }
            });
            Ok((mean.to_kind(Kind::Float), variance.to_kind(Kind::Float)))
        })
    }
}

fn sum_options(sums: &Tensor) -> (Kind, tch::Device) {
    (Kind::Double, sums.device())
}
