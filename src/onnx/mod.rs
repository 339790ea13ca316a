//! Graphs in ONNX's form: nodes and weights put together by name, and written as a file that any runtime loads.
//!
//! What is declared of the format is what encoders need of `onnx.proto`; [`Graph`] has the operators that they are made
//! of, at operator set 17.

mod file;
mod graph;
mod proto;

pub use file::{Contents, Placement, write};
pub use graph::{Graph, Value};
