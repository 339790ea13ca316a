//! How student tokens are compared with the teacher's: the `[loss]` table and one file for each
//! kind of part that a loss can have.
//!
//! A new part is a file here that implements [`part::LossPart`], its keys in `table.rs`, and its place
//! in the list of parts in `comparison.rs`. Its terms have names, and metrics, TensorBoard, progress and reports
//! show them under these.

mod comparison;
mod features;
mod gram;
mod part;
mod relation;
mod table;

pub use comparison::Comparison;
pub use features::{Distance, Fuse};
pub use part::TokenPair;
pub(super) use part::{Tokens, class_and_patch};
pub use relation::Relation;
pub use table::{LossConfig, TermConfig};
