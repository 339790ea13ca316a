//! The kinds of evaluation: one file each, and the list of them.

pub mod centroid;
pub mod knn;

use super::evaluation::Kind;

/// Every kind, by the name of its table under `[evaluation]`.
pub const KINDS: [Kind; 2] = [Kind::new::<knn::Knn>(), Kind::new::<centroid::Centroid>()];
