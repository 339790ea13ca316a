//! Tensors and crops as images that people look at.

mod masks;
mod preview;
mod sheet;

pub use masks::{dimmed, greyed};
pub use preview::{Preview, PreviewedSample, View, preview};
pub use sheet::{Sheet, sheet_of_columns};
