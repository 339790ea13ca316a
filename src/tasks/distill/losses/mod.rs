//! How student tokens are compared with the teacher's: the `[loss]` table and one file for each
//! kind of part that a loss can have.
//!
//! A new part is a file here that implements [`part::LossPart`], and in `table.rs` its keys and its
//! place in the list of parts. Its terms have names, and metrics, TensorBoard, progress and reports
//! show them under these.

mod features;
mod gram;
mod part;
mod relation;
mod table;

pub use features::{Distance, Fuse};
pub use part::TokenPair;
pub use relation::Relation;
pub use table::LossConfig;
