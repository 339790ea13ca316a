//! The layers that encoders and projectors are made of.

use tch::{Device, Kind, Tensor};

use super::activation::Activation;
use super::fp8::{Fp8Matrix, Operand};
use super::parameters::{Init, Parameters};
use crate::native::linear_gelu;

/// A matrix product with bias, in the number format of its input.
pub struct Linear {
    weight: Weight,
    bias: Tensor,
}

enum Weight {
    /// `[to, from]`, or more dimensions that make up the second.
    Plain(Tensor),
    Fp8(Fp8Matrix),
}

impl Linear {
    /// From width `from` to width `to`.
    pub fn new(parameters: &mut Parameters, name: &str, from: i64, to: i64) -> Self {
        Self::shaped(parameters, name, &[to, from])
    }

    /// One whose weight's first dimension is `to`; all others together are `from`.
    pub fn shaped(parameters: &mut Parameters, name: &str, shape: &[i64]) -> Self {
        parameters.scoped(name, |parameters| Self {
            weight: Weight::Plain(parameters.matrix("weight", shape)),
            bias: parameters.tensor("bias", &shape[..1], Init::Zeros),
        })
    }

    /// [`Self::shaped`] that adds zeros.
    pub fn unbiased(parameters: &mut Parameters, name: &str, shape: &[i64]) -> Self {
        parameters.scoped(name, |parameters| Self {
            weight: Weight::Plain(parameters.matrix("weight", shape)),
            bias: parameters.constant_zeros(&shape[..1]),
        })
    }

    /// Weight `[to, from]` and bias `[to]`, to be trained.
    ///
    /// # Panics
    /// The weight is in FP8, which is not trained.
    pub(super) fn parameters(&self) -> [&Tensor; 2] {
        match &self.weight {
            Weight::Plain(weight) => [weight, &self.bias],
            Weight::Fp8(_) => panic!("weights in FP8 are not trained"),
        }
    }

    /// [`Self::new`], or one that adds zeros.
    pub(super) fn with_bias(
        parameters: &mut Parameters,
        name: &str,
        (from, to): (i64, i64),
        has_bias: bool,
    ) -> Self {
        match has_bias {
            true => Self::new(parameters, name, from, to),
            false => Self::unbiased(parameters, name, &[to, from]),
        }
    }

    /// Adds this bias `[to]` from now on. For weights that stay as they are.
    pub(super) fn set_bias(&mut self, bias: Tensor) {
        self.bias = bias;
    }

    /// Multiplies each output by its number of `factors` `[to]`. For weights that stay as they are.
    pub(super) fn scale_outputs(&mut self, factors: &Tensor) {
        if let Weight::Plain(weight) = &mut self.weight {
            let scaled = |numbers: &Tensor, factors: &Tensor| {
                (numbers.to_kind(Kind::Float) * factors.to_kind(Kind::Float))
                    .to_kind(numbers.kind())
            };
            *weight = scaled(weight, &factors.unsqueeze(-1));
            self.bias = scaled(&self.bias, factors);
        }
    }

    /// Keeps weights and bias in the kind that they are used in. For weights that stay as they are.
    pub fn freeze(&mut self, compute: Kind) {
        if let Weight::Plain(weight) = &mut self.weight {
            *weight = weight.to_kind(compute);
        }
        self.bias = self.bias.to_kind(compute);
    }

    /// [`Self::freeze`] for products in FP8 of bf16 activations.
    pub(super) fn freeze_in_fp8(&mut self) {
        self.freeze(Kind::BFloat16);
        if let Weight::Plain(weight) = &self.weight {
            self.weight = Weight::Fp8(Fp8Matrix::from_weight(weight));
        }
    }

    /// Whether its products are in FP8.
    pub(super) fn takes_fp8(&self) -> bool {
        matches!(self.weight, Weight::Fp8(_))
    }

    /// [`Self::forward`] of what a frozen layer takes.
    ///
    /// # Panics
    /// Where a product in another format is given rounded rows.
    pub(super) fn product(&self, operand: Operand) -> Tensor {
        match (operand, &self.weight) {
            (Operand::Numbers(numbers), _) => self.forward(&numbers),
            (Operand::Rounded(rows, shape), Weight::Fp8(matrix)) => {
                matrix.product_of_rows(&rows, shape, Some(&self.bias))
            }
            (Operand::Rounded(..), Weight::Plain(_)) => panic!("rows in FP8 for other weights"),
        }
    }

    /// The `activation` of [`Self::product`].
    ///
    /// # Panics
    /// Those of [`Self::product`].
    pub(super) fn product_activated(&self, operand: Operand, activation: Activation) -> Tensor {
        match operand {
            Operand::Numbers(numbers) => self.forward_activated(&numbers, activation),
            rounded => activation.of(self.product(rounded)),
        }
    }

    /// `[..., from]` to `[..., to]`. Float32 master weights are cast to the input's kind; the
    /// gradient flows back through the cast in float32.
    pub fn forward(&self, input: &Tensor) -> Tensor {
        self.forward_adding(input, &self.bias)
    }

    /// [`Self::forward`] with another bias `[to]`.
    pub(super) fn forward_adding(&self, input: &Tensor, bias: &Tensor) -> Tensor {
        let kind = input.kind();
        match &self.weight {
            Weight::Plain(weight) => {
                let weight = weight.flatten(1, -1).to_kind(kind);
                let bias = bias.to_kind(kind);
                match (kind, input.device()) {
                    (Kind::Float, Device::Cpu) => as_convolution(input, &weight, &bias),
                    _ => input.linear(&weight, Some(bias)),
                }
            }
            Weight::Fp8(matrix) => matrix.product(input, bias),
        }
    }

    /// The `activation` of [`Self::forward`]; GELU in one kernel where frozen weights meet float32 on a CPU.
    pub(super) fn forward_activated(&self, input: &Tensor, activation: Activation) -> Tensor {
        match &self.weight {
            Weight::Plain(weight)
                if activation == Activation::Gelu
                    && (input.kind(), input.device()) == (Kind::Float, Device::Cpu)
                    && !weight.requires_grad()
                    && !input.requires_grad() =>
            {
                let product = linear_gelu(input, weight, &self.bias);
                product.unwrap_or_else(|error| panic!("libtorch: {error:#}"))
            }
            _ => activation.of(self.forward(input)),
        }
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
pub struct LayerNorm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) eps: f64,
}

impl LayerNorm {
    /// Over the last dimension, of width `dim`.
    pub fn new(parameters: &mut Parameters, name: &str, dim: i64, eps: f64) -> Self {
        parameters.scoped(name, |parameters| Self {
            weight: parameters.tensor("weight", &[dim], Init::Ones),
            bias: parameters.tensor("bias", &[dim], Init::Zeros),
            eps,
        })
    }

    /// Keeps the parameters in the kind of what comes in, as libtorch's kernel for GPUs wants them.
    pub fn freeze(&mut self, input: Kind) {
        self.weight = self.weight.to_kind(input);
        self.bias = self.bias.to_kind(input);
    }

    /// `[..., D]` to `[..., D]` in the kind of the input.
    pub fn forward(&self, input: &Tensor) -> Tensor {
        // Float32, unless frozen for bf16.
        let own = self.weight.kind();
        input
            .to_kind(own)
            .layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)
            .to_kind(input.kind())
    }
}
