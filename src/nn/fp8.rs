//! Matrix products in FP8, for weights that are not trained.
//!
//! Weights are stored as e4m3 (four bits of exponent, three of mantissa; Micikevicius et al., 2022)
//! with one scale for each output, activations are rounded to it at run time with one scale for each
//! token. Sums, bias and result have more bits.

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::native::guard;

/// The largest finite number of e4m3.
const LARGEST: f64 = 448.0;

/// Rows of numbers: `values · scales` are nearly the numbers.
struct Rows {
    /// `[M, K]` e4m3.
    values: Tensor,
    /// `[M, 1]` float32.
    scales: Tensor,
}

impl Rows {
    /// Rounds `[M, K]` so that each row's largest number becomes the largest of e4m3.
    fn from_numbers(numbers: &Tensor) -> Self {
        let size = numbers.size();
        let largest = numbers.norm_scalaropt_dim_dtype(f64::INFINITY, [-1i64], true, Kind::Float);
        // A row of zeros stays one.
        let scales = largest.clamp_min(1e-12) / LARGEST;
        // Written as e4m3 by the kernel that multiplies: nothing in between is stored.
        let values = Tensor::empty(size, (Kind::Float8e4m3fn, numbers.device()));
        let values = numbers.multiply_out(&values, &scales.reciprocal());
        Self { values, scales }
    }
}

/// A weight matrix in e4m3.
pub(super) struct Fp8Matrix {
    /// `[to, from]`.
    rows: Rows,
}

impl Fp8Matrix {
    /// Rounds a matrix `[to, from]` of any kind.
    pub(super) fn from_weight(weight: &Tensor) -> Self {
        Self { rows: Rows::from_numbers(weight) }
    }

    /// `[..., from]` to `[..., to]` bf16, with `bias` `[to]` bf16 added.
    pub(super) fn product(&self, input: &Tensor, bias: &Tensor) -> Tensor {
        let mut shape = input.size();
        let from = shape.pop().expect("activations are [..., from]");
        shape.push(bias.size()[0]);
        let input = Rows::from_numbers(&input.reshape([-1, from]));
        self.scaled(&input, bias).reshape(shape)
    }

    fn scaled(&self, input: &Rows, bias: &Tensor) -> Tensor {
        let Rows { values, scales } = &self.rows;
        if input.values.device().is_cuda() {
            let (weight, weight_scales) = (values.transpose(0, 1), scales.transpose(0, 1));
            return input.values.internal_scaled_mm(
                &weight,
                &input.scales,
                &weight_scales,
                Some(bias),
                None::<&Tensor>,
                Kind::BFloat16,
                true,
            );
        }
        // The same numbers in float32, to be looked at where there is no GPU.
        let wide = |rows: &Rows| rows.values.to_kind(Kind::Float) * &rows.scales;
        (wide(input).matmul(&wide(&self.rows).transpose(0, 1)) + bias).to_kind(Kind::BFloat16)
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
        let Rows { values, scales } = Rows::from_numbers(&numbers);
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
