//! Our own GPU kernels: compiled by NVRTC when a run begins, launched in libtorch's current stream.
//!
//! The driver and NVRTC are opened by name at run time, so the program starts without either.

mod compile;
mod frozen;
mod module;
mod training;

pub use compile::{KernelSource, compile_kernels};
pub use frozen::{
    BeforeRounding, RoundedRows, TeacherKernels, kernels_fit, rounding_fits, threads_of_row,
    threads_that_round,
};
pub use training::{
    BranchGradient, JoinGradients, Joined, Joining, TrainingKernels, column_grid, row_groups,
    training_kernels_fit,
};

use tch::Tensor;

/// Neighbouring numbers of a row that a thread holds in its registers.
const HELD: usize = 8;
const WARP: usize = 32;

/// A LayerNorm's numbers: over rows of D, `(x - mean) / sqrt(variance + eps) * weight + bias`.
pub struct RowNorm<'a> {
    /// `[D]`, of the residual's kind.
    pub weight: &'a Tensor,
    /// `[D]`, of the residual's kind.
    pub bias: &'a Tensor,
    pub eps: f64,
}
