//! Our own GPU kernels: compiled by NVRTC when a run begins, launched in libtorch's current stream.
//!
//! The driver and NVRTC are opened by name at run time, so the program starts without either.

mod compile;
mod frozen;
mod module;
mod rows;
mod training;

pub use compile::{KernelSource, compile_kernels};
pub use frozen::{BeforeRounding, TeacherKernels};
pub use rows::{
    RoundedRows, RowNorm, kernels_fit, rounding_fits, threads_of_row, threads_that_round,
};
pub use training::{
    BranchGradient, JoinGradients, Joined, Joining, TrainingKernels, column_grid, row_groups,
    training_kernels_fit,
};
