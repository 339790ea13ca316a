//! The kinds of evaluation: one file or folder each, and the list of them.

pub mod centroid;
pub mod knn;
pub mod linear;
pub mod memory_bank;
mod nearest;

use super::evaluation::Kind;

/// Every kind, by the name of its table under `[evaluation]`.
pub const KINDS: [Kind; 4] = [
    Kind::new::<knn::Knn>(),
    Kind::new::<centroid::Centroid>(),
    Kind::new::<linear::Linear>(),
    Kind::new::<memory_bank::MemoryBank>(),
];
