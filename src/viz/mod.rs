//! Tensors and crops as images that people look at.

mod sheet;

pub use sheet::Sheet;
