//! Linear layers, forward and backward.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::junction::Junction;
use crate::nn::layers::Linear;

/// A linear layer's weight in the kind of products, kept for the backward pass.
pub(super) struct Product {
    /// `[to, from]`, without history.
    weight: Tensor,
}

impl Product {
    /// `input` `[..., from]` to `[..., to]`.
    pub(super) fn forward(linear: &Linear, input: &Tensor) -> (Tensor, Self) {
        let [weight, bias] = linear.parameters().map(|one| one.detach().to_kind(input.kind()));
        (input.linear(&weight, Some(bias)), Self { weight })
    }

    /// The gradient of the input, given that of the output.
    pub(super) fn input_backward(&self, of_output: &Tensor) -> Tensor {
        of_output.matmul(&self.weight)
    }
}

/// The gradient of a weight `[to, from]` in float32, given those of the output `[..., to]` and the input
/// `[..., from]`.
pub(super) fn weight_backward(of_output: &Tensor, input: &Tensor) -> Result<Tensor> {
    let rows = |tensor: &Tensor| tensor.f_flatten(0, -2);
    let (of_output, input) = (rows(of_output)?.f_transpose(0, 1)?, rows(input)?);
    match (input.kind(), input.device().is_cuda()) {
        (Kind::BFloat16, true) => Ok(of_output.f_mm_dtype(&input, Kind::Float)?),
        _ => Ok(of_output.f_mm(&input)?.to_kind(Kind::Float)),
    }
}

/// The gradient of a linear layer's bias, given that of its output.
pub(super) fn bias_backward(junction: &Junction, of_output: &Tensor) -> Result<Tensor> {
    junction.column_sums(of_output)
}
