//! Matrix products in FP8.
//!
//! Weights are rounded to e4m3 (four bits of exponent, three of mantissa; Micikevicius et al., 2022)
//! with one scale for each output, once where they are not trained; activations at run time with one scale
//! for each token. Sums, bias and result have more bits.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::native::{RoundedRows, guard};

/// The largest finite number of e4m3.
const LARGEST: f64 = 448.0;

/// The number format of matrix products in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProductPrecision {
    /// That of the run.
    #[default]
    Same,
    /// FP8 (e4m3), with a scale for each token and each output.
    Fp8,
}

impl ProductPrecision {
    /// Whether it is [`Self::Same`].
    pub fn is_same(&self) -> bool {
        *self == Self::Same
    }
}

/// Weights of the smallest product that is worth rounding for, as measured on an H200 (docs/PERFORMANCE.md): of
/// 1,280 by 1,280 FP8 saves 0.02 ms of 0.19 forward and backward and costs as much, of 1,536 by 1,536 a little
/// less.
pub const FP8_LEAST_WEIGHTS: usize = 2_000_000;

/// Rounds `[M, K]` so that each row's largest number becomes the largest of e4m3, with libtorch's operators.
pub fn rounded_rows(numbers: &Tensor) -> RoundedRows {
    let size = numbers.size();
    let largest = numbers.norm_scalaropt_dim_dtype(f64::INFINITY, [-1i64], true, Kind::Float);
    // A row of zeros stays one.
    let scales = largest.clamp_min(1e-12) / LARGEST;
    // Written as e4m3 by the kernel that multiplies: nothing in between is stored.
    let values = Tensor::empty(size, (Kind::Float8e4m3fn, numbers.device()));
    let values = numbers.multiply_out(&values, &scales.reciprocal());
    RoundedRows { values, scales }
}

/// Whether a weight `[to, from]` has at least so many numbers, and sizes that FP8's products take.
pub(super) fn fits_fp8(weight: &Tensor, least_weights: usize) -> bool {
    weight.numel() >= least_weights && weight.size().iter().all(|size| size % 16 == 0)
}

/// What a frozen layer takes: numbers, or rows that the kernel before has rounded.
pub(super) enum Operand {
    /// `[..., K]`.
    Numbers(Tensor),
    /// Those of a tensor of this shape, `[..., K]`.
    Rounded(RoundedRows, Vec<i64>),
}

/// A weight matrix in e4m3.
pub(super) struct Fp8Matrix {
    /// `[to, from]`.
    rows: RoundedRows,
}

impl Fp8Matrix {
    /// Rounds a matrix `[to, from]` of any kind.
    pub(super) fn from_weight(weight: &Tensor) -> Self {
        Self { rows: rounded_rows(weight) }
    }

    /// The matrix `[to, from]` that these rows are.
    pub(super) fn from_rows(rows: RoundedRows) -> Self {
        Self { rows }
    }

    /// `[..., from]` to `[..., to]` bf16, with `bias` `[to]` bf16 added.
    pub(super) fn product(&self, input: &Tensor, bias: &Tensor) -> Tensor {
        let shape = input.size();
        let from = *shape.last().expect("activations are [..., from]");
        self.product_of_rows(&rounded_rows(&input.reshape([-1, from])), shape, Some(bias))
    }

    /// [`Self::product`] of rows that are those of a tensor of this shape.
    pub(super) fn product_of_rows(
        &self,
        input: &RoundedRows,
        mut shape: Vec<i64>,
        bias: Option<&Tensor>,
    ) -> Tensor {
        shape.pop();
        shape.push(self.rows.values.size()[0]);
        self.scaled(input, bias).reshape(shape)
    }

    fn scaled(&self, input: &RoundedRows, bias: Option<&Tensor>) -> Tensor {
        let RoundedRows { values, scales } = &self.rows;
        if input.values.device().is_cuda() {
            let (weight, weight_scales) = (values.transpose(0, 1), scales.transpose(0, 1));
            return input.values.internal_scaled_mm(
                &weight,
                &input.scales,
                &weight_scales,
                bias,
                None::<&Tensor>,
                Kind::BFloat16,
                true,
            );
        }
        // The same numbers in float32, to be looked at where there is no GPU.
        let wide = |rows: &RoundedRows| rows.values.to_kind(Kind::Float) * &rows.scales;
        let product = wide(input).matmul(&wide(&self.rows).transpose(0, 1));
        bias.map_or(product.shallow_clone(), |bias| product + bias).to_kind(Kind::BFloat16)
    }
}

/// Tries a small product on `device`.
///
/// # Errors
/// It has no FP8, and why: it is no GPU, one that is too old, or libtorch cannot use it.
pub fn require_fp8(device: Device) -> Result<()> {
    ensure!(
        device.is_cuda(),
        "this needs a GPU of NVIDIA's Ada or Hopper generation or later, and training is on the CPU"
    );
    guard(|| {
        let ones = Tensor::ones([16; 2], (Kind::BFloat16, device));
        let product = Fp8Matrix::from_weight(&ones).product(&ones, &ones.get(0));
        let off = (product - (17.0)).abs().max().double_value(&[]);
        ensure!(off == 0.0, "a product is wrong by {off}");
        Ok(())
    })
    .context("this GPU or libtorch has no FP8 (NVIDIA's Ada, Hopper or later generations have)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    #[test]
    fn every_row_is_rounded_by_its_own_scale() {
        tch::manual_seed(1);
        let sizes = Tensor::from_slice(&[1e-6f32, 1.0, 3e4, 0.0]).view([4, 1]);
        let numbers = random(&[4, 64]) * sizes;
        let RoundedRows { values, scales } = rounded_rows(&numbers);
        assert_eq!((values.kind(), scales.kind()), (Kind::Float8e4m3fn, Kind::Float));
        assert_eq!(values.to_kind(Kind::Float).abs().max().double_value(&[]), LARGEST);
        let off = (values.to_kind(Kind::Float) * &scales - &numbers).abs();
        // Half a unit of the last of three bits, or of the smallest number.
        let allowed = (numbers.abs() / 15.9).maximum(&(scales * 2f64.powi(-10)));
        assert!(off.le_tensor(&allowed).all().int64_value(&[]) == 1);
    }

    #[test]
    fn the_product_is_near_and_has_its_shape() {
        tch::manual_seed(2);
        let (weight, input, bias) = (random(&[32, 256]), random(&[2, 5, 256]), random(&[32]));
        let bias = bias.to_kind(Kind::BFloat16);
        let product = Fp8Matrix::from_weight(&weight).product(&input, &bias);
        assert_eq!((product.size(), product.kind()), (vec![2, 5, 32], Kind::BFloat16));
        let exact = input.matmul(&weight.transpose(0, 1)) + bias;
        let off = (product.to_kind(Kind::Float) - &exact).norm() / exact.norm();
        let off = off.double_value(&[]);
        assert!((0.01..0.05).contains(&off), "relative error {off}");
    }

    #[test]
    fn a_cpu_is_refused() {
        let error = require_fp8(Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("Hopper"), "{error}");
    }
}
