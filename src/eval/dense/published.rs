//! What the Pixio release says of its own encoder (its repository, December 2025; see docs/EVALUATION.md).

use super::heads::HeadKind;
use crate::data::pairs::KnownSet;

/// The encoder that [`published_share`] is of.
pub const PUBLISHED_ENCODER: &str = "Pixio-H/16";

/// The published share of pixels within a factor of 1.25 (depth) or mIoU (segmentation), in `[0, 1]`, of such
/// a head: the best of 60 epochs on the test split.
pub fn published_share(dataset: KnownSet, head: HeadKind) -> f64 {
    let [linear, dpt] = match dataset {
        KnownSet::Nyuv2 => [0.908, 0.955],
        KnownSet::Kitti => [0.903, 0.967],
        KnownSet::Ade20k => [0.502, 0.536],
        KnownSet::Pascal => [0.822, 0.859],
        KnownSet::Loveda => [0.539, 0.547],
    };
    match head {
        HeadKind::Linear => linear,
        HeadKind::Dpt => dpt,
    }
}
