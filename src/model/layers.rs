//! The layers that encoders and projectors are made of.

use tch::{Device, Kind, Tensor};

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

    /// Keeps weights and bias in the kind that they are used in. For weights that stay as they are.
    pub(super) fn freeze(&mut self, compute: Kind) {
        self.weight = self.weight.to_kind(compute);
        self.bias = self.bias.to_kind(compute);
    }

    /// `[..., from]` to `[..., to]`. Float32 master weights are cast to the input's kind; the
    /// gradient flows back through the cast in float32.
    pub(super) fn forward(&self, input: &Tensor) -> Tensor {
        let kind = input.kind();
        let (weight, bias) = (self.weight.to_kind(kind), self.bias.to_kind(kind));
        if (kind, input.device()) == (Kind::Float, Device::Cpu) {
            return as_convolution(input, &weight, &bias);
        }
        input.linear(&weight, Some(bias))
    }
}

/// [`Linear`] over `[B, T, from]` as a convolution of 1 × 1.
///
/// libtorch gives float32 products on a CPU to MKL, which leaves AVX-512 alone unless the maker is
/// Intel, but convolutions to oneDNN, which uses what there is (docs/PERFORMANCE.md has figures).
fn as_convolution(input: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
    let image = input.unsqueeze(2).permute([0, 3, 1, 2]);
    let kernel = weight.unsqueeze(-1).unsqueeze(-1);
    image.conv2d(&kernel, Some(bias), 1, 0, 1, 1).permute([0, 2, 3, 1]).squeeze_dim(2)
}

/// LayerNorm; means, deviations and sums are float32 whatever comes in.
pub(super) struct LayerNorm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) eps: f64,
}

impl LayerNorm {
    pub(super) fn new(parameters: &mut Parameters, name: &str, dim: i64, eps: f64) -> Self {
        parameters.scoped(name, |parameters| Self {
            weight: parameters.tensor("weight", &[dim], Init::Ones),
            bias: parameters.tensor("bias", &[dim], Init::Zeros),
            eps,
        })
    }

    /// Keeps the parameters in the kind of what comes in, as libtorch's kernel for GPUs wants them.
    pub(super) fn freeze(&mut self, input: Kind) {
        self.weight = self.weight.to_kind(input);
        self.bias = self.bias.to_kind(input);
    }

    /// `[..., D]` to `[..., D]` in the kind of the input.
    pub(super) fn forward(&self, input: &Tensor) -> Tensor {
        // Float32, unless frozen for bf16.
        let own = self.weight.kind();
        input
            .to_kind(own)
            .layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)
            .to_kind(input.kind())
    }
}
