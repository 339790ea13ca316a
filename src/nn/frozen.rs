//! What the passes of an encoder that is not trained have of their own: number formats, and what lies between
//! its matrix products.

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use super::activation::Activation;
use super::fp8::Operand;
use super::layers::{LayerNorm, Linear};
use crate::native::{BeforeRounding, RowNorm, TeacherKernels, kernels_fit};

/// The number formats of a frozen encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrozenFormat {
    /// Matrix products run in this kind, float32 or bf16, and their weights are kept in it.
    pub compute: Kind,
    /// Tokens between blocks: bf16 halves the memory that additions and LayerNorms move, and rounds
    /// after each branch.
    pub residual: Kind,
    /// The blocks' matrices, and what they are multiplied with, are rounded to FP8 where `compute`
    /// is bf16.
    pub fp8: bool,
}

/// What lies between the matrix products of frozen blocks, by default with libtorch's operators. With kernels of
/// our own numbers are read and written once from one product to the next: a residual addition with the LayerNorm
/// behind it, and whatever a product in FP8 takes is rounded by the kernel that computes it.
#[derive(Default)]
pub struct Junctions {
    kernels: Option<TeacherKernels>,
}

impl Junctions {
    /// Those of our own kernels, for tokens of width `dim` on `device`.
    ///
    /// # Errors
    /// Why the kernels cannot be used: the kind, the width, or the device.
    pub fn with_kernels(dim: usize, device: Device, compute: Kind) -> Result<Self> {
        ensure!(compute == Kind::BFloat16, "they need run.precision = \"bf16\"");
        ensure!(kernels_fit(dim), "they do not fit a width of {dim}");
        Ok(Self { kernels: Some(TeacherKernels::load(device)?) })
    }

    /// Adds `branch` to `residual` in its memory, and gives the sum's LayerNorm in the kind `compute`, as `next`
    /// takes it; all are `[B, T, D]`.
    ///
    /// # Errors
    /// The kernel fails.
    pub(super) fn add_norm(
        &self,
        residual: &mut Tensor,
        branch: Option<Tensor>,
        norm: &LayerNorm,
        (compute, next): (Kind, &Linear),
    ) -> Result<Operand> {
        if let Some(kernels) = &self.kernels {
            let (branch, shape) = (branch.as_ref(), residual.size());
            let norm = RowNorm { weight: &norm.weight, bias: &norm.bias, eps: norm.eps };
            return Ok(match next.takes_fp8() {
                true => {
                    let rows = kernels.add_layer_norm_rounded(residual, branch, &norm)?;
                    Operand::Rounded(rows, shape)
                }
                false => Operand::Numbers(kernels.add_layer_norm(residual, branch, &norm)?),
            });
        }
        if let Some(branch) = branch {
            let _ = residual.g_add_(&branch);
        }
        Ok(Operand::Numbers(norm.forward(residual).to_kind(compute)))
    }

    /// Numbers `[B, T, K]` as `next` takes them.
    ///
    /// # Errors
    /// The kernel fails.
    pub(super) fn operand(&self, numbers: Tensor, next: &Linear) -> Result<Operand> {
        self.rounded(numbers, next, BeforeRounding::Nothing)
    }

    /// The `activation` of the product of `hidden` with `operand`, as `next` takes it. The kernels know GELU alone:
    /// others are libtorch's, and rounded by a kernel of their own.
    ///
    /// # Errors
    /// The kernel fails.
    pub(super) fn activated(
        &self,
        (hidden, activation): (&Linear, Activation),
        operand: Operand,
        next: &Linear,
    ) -> Result<Operand> {
        match &self.kernels {
            _ if activation != Activation::Gelu => {
                self.operand(hidden.product_activated(operand, activation), next)
            }
            Some(_) if next.takes_fp8() => {
                self.rounded(hidden.product(operand), next, BeforeRounding::Gelu)
            }
            Some(kernels) => {
                let mut product = hidden.product(operand);
                kernels.gelu(&mut product)?;
                Ok(Operand::Numbers(product))
            }
            // The widest layer follows: memory of the operand is free for it.
            None => Ok(Operand::Numbers(hidden.product_activated(operand, activation))),
        }
    }

    fn rounded(&self, numbers: Tensor, next: &Linear, before: BeforeRounding) -> Result<Operand> {
        match &self.kernels {
            Some(kernels) if next.takes_fp8() => {
                let shape = numbers.size();
                Ok(Operand::Rounded(kernels.rounded(&numbers.contiguous(), before)?, shape))
            }
            _ => Ok(Operand::Numbers(numbers)),
        }
    }
}
