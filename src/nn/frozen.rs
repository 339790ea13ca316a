//! What the passes of an encoder that is not trained have of their own: number formats, and a residual
//! addition in one kernel with the LayerNorm that follows it.

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use super::layers::LayerNorm;
use crate::native::{RowNorm, TeacherKernels, kernels_fit};

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

/// Adds a residual branch and normalises the sum, by default with libtorch's operators.
#[derive(Default)]
pub struct AddNorm {
    kernels: Option<TeacherKernels>,
}

impl AddNorm {
    /// One kernel of our own, for tokens of width `dim` on `device`, normalised to bf16.
    ///
    /// # Errors
    /// Why the kernels cannot be used: the kind, the width, or the device.
    pub fn with_kernels(dim: usize, device: Device, compute: Kind) -> Result<Self> {
        ensure!(compute == Kind::BFloat16, "they need run.precision = \"bf16\"");
        ensure!(kernels_fit(dim), "they do not fit a width of {dim}");
        Ok(Self { kernels: Some(TeacherKernels::load(device)?) })
    }

    /// Adds `branch` to `residual` in its memory, and gives the sum's LayerNorm in the kind
    /// `compute`; all are `[B, T, D]`.
    ///
    /// # Errors
    /// The kernel fails.
    pub fn add(
        &self,
        residual: &mut Tensor,
        branch: Option<Tensor>,
        norm: &LayerNorm,
        compute: Kind,
    ) -> Result<Tensor> {
        if let Some(kernels) = &self.kernels {
            let norm = RowNorm { weight: &norm.weight, bias: &norm.bias, eps: norm.eps };
            return kernels.add_layer_norm(residual, branch.as_ref(), &norm);
        }
        if let Some(branch) = branch {
            let _ = residual.g_add_(&branch);
        }
        Ok(norm.forward(residual).to_kind(compute))
    }
}
