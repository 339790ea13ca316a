//! What `tch` does not bind of libtorch, with a safe face: the only module of this crate with `unsafe`.
//!
//! C++ exceptions arrive as [`anyhow::Error`] with libtorch's message; [`guard`] does the same
//! for the panics of `tch`'s infallible methods.

mod backward;
pub mod c10d;
mod device;
mod ending;
mod facts;
mod graph;
mod guard;
mod host_copy;
mod kernels;
mod linear_gelu;
mod mapped_file;
mod memory;
mod node;
mod optimizer;
mod peak;
mod profiler;
mod shim;

pub use backward::{backward_from, layer_norm_backward};
pub use device::{
    DeviceEvent, Download, Gpu, PeakMemory, describe, exact_convolutions, libtorch_version,
    make_current, upload,
};
pub use ending::{exit_if_skipping_destructors, exit_now, skip_destructors};
pub use facts::{Driver, cpu_capability, cuda_version, nccl_version};
pub use graph::CudaGraph;
pub use guard::{guard, install_panic_hook};
pub use host_copy::{copy_to_host, pinned_memory};
pub use kernels::{
    BeforeRounding, BranchGradient, JoinGradients, Joined, Joining, KernelSource, RoundedRows,
    RowNorm, TeacherKernels, TrainingKernels, column_grid, compile_kernels, kernels_fit,
    rounding_fits, row_groups, threads_of_row, threads_that_round, training_kernels_fit,
};
pub use linear_gelu::linear_gelu;
pub use mapped_file::MappedFile;
pub use memory::{available_memory, bytes_of, peak_memory, proportional_memory, trim_heap};
pub use node::{Gradients, attach, records_history};
pub use optimizer::{
    AdamWStep, clear_gradients, fused_adamw, gradient_norm, scale_gradients, zero_gradients,
};
pub use peak::{PEAKS, Peak};
pub use profiler::{ProfiledPart, Profiler};
