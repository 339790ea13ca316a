//! Tensors and crops as images that people look at.

mod masks;
mod patches;
mod preview;
mod sheet;

pub use masks::{dimmed, greyed};
pub use patches::{Basis, PatchTokens, agreement, colours, frame, heat, similarity};
pub use preview::{Preview, PreviewedSample, View, preview};
pub use sheet::{Sheet, sheet_of_columns};
