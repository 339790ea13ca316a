//! Blocks whose gradients are wanted, with forward and backward pass written out.
//!
//! What lies between two uses of attention is one place in autograd's graph. It computes what a LayerNorm, a linear
//! layer and GELU compute and gives the same gradients, but keeps less, and on a GPU in bf16 kernels of our own read
//! and write a number once where libtorch's operators do it several times:
//!
//! - a branch is added to the residual stream with its drop path factor by the kernel that normalises the sum for the
//!   next branch, and only images that keep a path are read and written;
//! - backward that kernel's counterpart adds the gradients of stream and norm, gives the one of the branch before, and
//!   sums what weight, bias and the branch's own bias need;
//! - GELU's gradient and the sum for the bias before it are one kernel;
//! - weights' gradients leave their product in float32.
//!
//! Everywhere else libtorch's operators do the same.

mod junction;
mod pieces;
mod products;

pub(super) use junction::Junction;
pub(super) use pieces::{Stream, enter, leave, mlp};
