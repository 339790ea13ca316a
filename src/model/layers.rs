//! The layers that encoders and projectors are made of.

use tch::{Kind, Tensor};

use super::parameters::{Init, Parameters};

/// A matrix product with bias, in the number format of its input.
pub(super) struct Linear {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
}

impl Linear {
    pub(super) fn new(parameters: &mut Parameters, name: &str, from: i64, to: i64) -> Self {
        parameters.scoped(name, |parameters| Self {
            weight: parameters.matrix("weight", &[to, from]),
            bias: parameters.tensor("bias", &[to], Init::Zeros),
        })
    }

    /// `[..., from]` to `[..., to]`. Float32 master weights are cast to the input's kind; the
    /// gradient flows back through the cast in float32.
    pub(super) fn forward(&self, input: &Tensor) -> Tensor {
        let kind = input.kind();
        input.linear(&self.weight.to_kind(kind), Some(self.bias.to_kind(kind)))
    }
}

/// LayerNorm, computed in float32 whatever comes in.
pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    pub(super) fn new(parameters: &mut Parameters, name: &str, dim: i64, eps: f64) -> Self {
        parameters.scoped(name, |parameters| Self {
            weight: parameters.tensor("weight", &[dim], Init::Ones),
            bias: parameters.tensor("bias", &[dim], Init::Zeros),
            eps,
        })
    }

    /// `[..., D]` to `[..., D]` in the kind of the input.
    pub(super) fn forward(&self, input: &Tensor) -> Tensor {
        let kind = input.kind();
        let dim = self.weight.size();
        input
            .to_kind(Kind::Float)
            .layer_norm(dim, Some(&self.weight), Some(&self.bias), self.eps, true)
            .to_kind(kind)
    }
}
