//! Convolutions of heads, and enlarging.

use tch::{Kind, Tensor};

use crate::nn::{Init, Parameters};

/// A convolution of square kernels.
pub(super) struct Convolution {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Convolution {
    /// From `from` to `to` channels with a kernel of `side` × `side`; initial values uniform in
    /// ±1/√(from·side²), PyTorch's default.
    pub fn new(
        parameters: &mut Parameters,
        name: &str,
        [from, to]: [i64; 2],
        side: i64,
        has_bias: bool,
    ) -> Self {
        Self::shaped(parameters, name, [to, from, side, side], to, has_bias)
    }

    /// A transposed one of as many channels as it gets, `[C, C, side, side]`.
    pub fn transposed(parameters: &mut Parameters, name: &str, channels: i64, side: i64) -> Self {
        Self::shaped(parameters, name, [channels, channels, side, side], channels, true)
    }

    fn shaped(
        parameters: &mut Parameters,
        name: &str,
        shape: [i64; 4],
        to: i64,
        has_bias: bool,
    ) -> Self {
        let fan_in = shape[1..].iter().product::<i64>();
        let init = Init::Uniform(1.0 / (fan_in as f64).sqrt());
        parameters.scoped(name, |parameters| Self {
            weight: parameters.tensor("weight", &shape, init),
            bias: has_bias.then(|| parameters.tensor("bias", &[to], init)),
        })
    }

    /// `[B, from, h, w]` to `[B, to, h', w']` in `compute`.
    pub fn forward(&self, input: &Tensor, stride: i64, padding: i64, compute: Kind) -> Tensor {
        let (weight, bias) = self.cast(compute);
        input.to_kind(compute).conv2d(&weight, bias.as_ref(), stride, padding, 1, 1)
    }

    /// Enlarges `[B, C, h, w]` by `stride`, the side of the kernel, as a transposed convolution.
    pub fn enlarge(&self, input: &Tensor, stride: i64, compute: Kind) -> Tensor {
        let (weight, bias) = self.cast(compute);
        input.to_kind(compute).conv_transpose2d(&weight, bias.as_ref(), stride, 0, 0, 1, 1)
    }

    /// Float32 weights in the number format of the products; gradients come back in float32.
    fn cast(&self, compute: Kind) -> (Tensor, Option<Tensor>) {
        (self.weight.to_kind(compute), self.bias.as_ref().map(|bias| bias.to_kind(compute)))
    }
}

/// `input` `[B, C, h, w]` at another size, bilinear with corners on corners (`align_corners`), float32.
pub(in crate::eval::dense) fn enlarge(input: &Tensor, size: [i64; 2]) -> Tensor {
    input.to_kind(Kind::Float).upsample_bilinear2d(size, true, None, None)
}
