//! Stochastic depth (Huang et al., 2016): a block's branch is skipped for some pictures.

use std::ops::Range;

use crate::draws::{Draws, Purpose};

/// What each branch is multiplied by: 0 where the path is dropped, 1 / (1 − p) where it is kept.
///
/// The probability p rises linearly from 0 at the first of `depth` blocks to `rate` at the last.
/// Returns `depth × 2 × B` numbers in that order (attention, then MLP), or none for a rate of 0.
/// Draws are keyed by the picture's position in the stream, so they do not depend on how the
/// global batch is divided.
pub fn drop_path_scales(
    rate: f64,
    depth: usize,
    seed: u64,
    lane: u64,
    positions: Range<u64>,
) -> Option<Vec<f32>> {
    if rate == 0.0 {
        return None;
    }
    let batch = (positions.end - positions.start) as usize;
    let mut scales = vec![0f32; depth * 2 * batch];
    for (picture, position) in positions.enumerate() {
        let mut draws = Draws::new(seed, Purpose::DropPath, lane, position);
        for branch in 0..depth * 2 {
            let dropped = rate * (branch / 2) as f64 / (depth - 1).max(1) as f64;
            let kept = draws.uniform() >= dropped;
            scales[branch * batch + picture] =
                if kept { (1.0 / (1.0 - dropped)) as f32 } else { 0.0 };
        }
    }
    Some(scales)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_linearly_and_keeps_the_expectation() {
        let (depth, batch) = (5, 20_000);
        let scales = drop_path_scales(0.4, depth, 0, 0, 0..batch as u64).unwrap();
        for block in 0..depth {
            let branch = &scales[block * 2 * batch..][..batch];
            let mean = branch.iter().sum::<f32>() / batch as f32;
            assert!((mean - 1.0).abs() < 0.03, "block {block}: mean {mean}");
            let dropped = branch.iter().filter(|&&s| s == 0.0).count() as f64 / batch as f64;
            assert!((dropped - 0.1 * block as f64).abs() < 0.02, "block {block}: {dropped}");
        }
    }

    #[test]
    fn a_batch_is_its_parts() {
        let whole = drop_path_scales(0.3, 2, 9, 1, 10..14).unwrap();
        let parts = [10..12, 12..14].map(|part| drop_path_scales(0.3, 2, 9, 1, part).unwrap());
        for branch in 0..4 {
            let joined = [&parts[0][branch * 2..][..2], &parts[1][branch * 2..][..2]].concat();
            assert_eq!(whole[branch * 4..][..4], joined);
        }
    }
}
