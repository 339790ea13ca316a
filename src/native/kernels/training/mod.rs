//! The kernels of blocks that are trained.

mod join;
mod loaded;
mod rounding;

pub use join::{BranchGradient, JoinGradients, Joined, Joining, row_groups, training_kernels_fit};
pub use loaded::{TrainingKernels, column_grid};
