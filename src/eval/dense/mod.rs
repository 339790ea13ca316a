//! Depth and segmentation by a small head on a frozen encoder.
//!
//! [`features`] cuts an encoder's tokens into maps, a [`Head`] makes an output of them, [`DenseTask`]
//! says what the output is and what it should be, and [`HeadTrainer`] updates the head. At test time
//! [`windows`] go over an image of any size, and figures are counted.
//!
//! Formulas are those of the evaluation that the Pixio release describes (its repository, December
//! 2025); docs/EVALUATION.md has the facts and where other evaluations differ.

mod depth_figures;
mod features;
mod heads;
mod published;
mod schedule;
mod segmentation_figures;
mod task;
mod trainer;
mod windows;

pub use depth_figures::{DEPTH_FIGURES, DepthFigures, LEAST_VALID, depth_figures, mean_of_figures};
pub use features::{feature_dim, feature_maps};
pub use heads::{DptShape, Head, HeadKind, HeadShape, Pass, dpt_blocks};
pub use published::{PUBLISHED_ENCODER, published_share};
pub use schedule::HeadSchedule;
pub use segmentation_figures::{ClassCounts, SegmentationFigures};
pub use task::{DenseTask, IGNORED};
pub use trainer::{HeadTrainer, Share, UpdateNumbers};
pub use windows::{Merge, Window, cut_windows, windows};
