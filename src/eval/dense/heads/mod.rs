//! Heads: from maps of a frozen encoder to an output at every pixel.

mod convolution;
mod dpt;
mod head;
mod kind;
mod linear;

pub use dpt::{DptShape, dpt_blocks};
pub use head::{Head, Pass};
pub use kind::{HeadKind, HeadShape};

pub(super) use convolution::enlarge;
