//! Linear layers, forward and backward.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::junction::{Junction, Operand};
use crate::nn::fp8::Fp8Matrix;

/// A linear layer's weight as products take it, kept for the backward pass.
pub(super) enum Product {
    /// `[to, from]` in the kind of products, without history.
    Plain(Tensor),
    /// Turned, in e4m3.
    Fp8 { turned: Fp8Matrix },
}

impl Product {
    /// `input` `[..., from]` to `[..., to]`, with a weight `[to, from]` and a bias `[to]`: in FP8 if it is rounded.
    pub(super) fn forward(
        junction: &Junction,
        [weight, bias]: [&Tensor; 2],
        input: &Operand,
    ) -> Result<(Tensor, Self)> {
        let numbers = &input.numbers;
        let [weight, bias] = [weight, bias].map(Tensor::detach);
        let bias = bias.to_kind(numbers.kind());
        let Some(rows) = &input.rounded else {
            let weight = weight.to_kind(numbers.kind());
            return Ok((numbers.f_linear(&weight, Some(bias))?, Self::Plain(weight)));
        };
        let [matrix, turned] = junction.rounded_weight(&weight)?.map(Fp8Matrix::from_rows);
        Ok((matrix.product_of_rows(rows, numbers.size(), Some(&bias)), Self::Fp8 { turned }))
    }

    /// The gradient of the input, given that of the output.
    pub(super) fn input_backward(&self, junction: &Junction, of_output: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(weight) => Ok(of_output.f_matmul(weight)?),
            Self::Fp8 { turned } => {
                let rows = junction.rounded(of_output)?;
                Ok(turned.product_of_rows(&rows, of_output.size(), None))
            }
        }
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
