//! Stochastic depth (Huang et al., 2016): a block's branch is skipped for some images.

use std::ops::Range;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::draws::{Draws, Purpose};
use crate::native::upload;

/// How drop path leaves out a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DropPathMode {
    /// Each image is drawn by itself; the branch is computed for all and multiplied by 0 or
    /// 1 / (1 − p).
    #[default]
    Scale,
    /// A fixed share of each batch keeps the branch, and it is computed for these images only.
    Skip,
}

/// Stochastic depth of a model: what [`DropPath`] is drawn by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StochasticDepth {
    /// Drop probability of the last block; it rises linearly from 0 at the first.
    pub rate: f64,
    /// Number of blocks.
    pub depth: usize,
    pub mode: DropPathMode,
}

impl StochasticDepth {
    /// The draw for the images at these positions of the stream of samples, for the model whose
    /// draws are in `rng_stream`.
    pub fn draw(
        &self,
        seed: u64,
        rng_stream: u64,
        positions: Range<u64>,
        device: Device,
    ) -> Result<DropPath> {
        let Self { rate, depth, mode } = *self;
        let images = (positions.end - positions.start) as i64;
        match mode {
            _ if rate == 0.0 => Ok(DropPath::None),
            DropPathMode::Scale => {
                let scales = drop_path_scales(rate, depth, seed, rng_stream, positions);
                let shape = [depth as i64, 2, images];
                Ok(DropPath::Scale(upload(&scales, &shape, device)?))
            }
            DropPathMode::Skip => {
                let kept = kept_images(rate, depth, seed, rng_stream, positions);
                DropPath::skip(&kept, images, device)
            }
        }
    }
}

/// Which branches are left out for which images, in one pass of a model.
pub enum DropPath {
    /// None.
    None,
    /// All are computed and multiplied by these factors, `[depth, 2, B]` float32, as
    /// [`drop_path_scales`] gives them.
    Scale(Tensor),
    /// Only those that stay are computed.
    Skip(KeptBranches),
}

/// The images that keep each branch, on the device.
pub struct KeptBranches {
    /// Images of all branches one after another, int64.
    images: Tensor,
    /// Each branch's factor, `[depth · 2, B]` float32: the same for every image.
    factors: Tensor,
    /// Each image's place among those that keep a branch, or -1, `[depth · 2, B]` int32.
    places: Tensor,
    /// Each branch's range of `images`; none where all of the batch keep it.
    ranges: Vec<Option<Range<i64>>>,
}

impl DropPath {
    /// Computes each branch for these images of a batch of `batch` only: one list for each of
    /// `depth × 2` branches, as [`kept_images`] gives them.
    pub fn skip(kept: &[Vec<i64>], batch: i64, device: Device) -> Result<Self> {
        let (mut listed, mut factors, mut ranges) = (Vec::new(), Vec::new(), Vec::new());
        let mut places = vec![-1i32; kept.len() * batch as usize];
        for (images, places) in kept.iter().zip(places.chunks_mut(batch.max(1) as usize)) {
            images.iter().enumerate().for_each(|(at, &image)| places[image as usize] = at as i32);
            let factor = (batch as f64 / images.len() as f64) as f32;
            factors.extend(std::iter::repeat_n(factor, batch as usize));
            let is_whole = images.len() as i64 == batch;
            ranges.push((!is_whole).then(|| {
                let start = listed.len() as i64;
                listed.extend_from_slice(images);
                start..listed.len() as i64
            }));
        }
        let images = upload(&listed, &[listed.len() as i64], device)?;
        let factors = upload(&factors, &[kept.len() as i64, batch], device)?;
        let places = upload(&places, &[kept.len() as i64, batch], device)?;
        Ok(Self::Skip(KeptBranches { images, factors, places, ranges }))
    }

    /// The paths of a block's attention and MLP.
    pub(super) fn of_block(&self, block: usize) -> [BranchPath; 2] {
        [2 * block, 2 * block + 1].map(|branch| match self {
            Self::None => BranchPath::Whole,
            Self::Scale(scales) => {
                let scales = scales.get(block as i64).get((branch % 2) as i64);
                BranchPath::Scaled(scales.view([-1, 1, 1]))
            }
            Self::Skip(kept) => match &kept.ranges[branch] {
                None => BranchPath::Whole,
                Some(range) => BranchPath::Kept {
                    images: kept.images.narrow(0, range.start, range.end - range.start),
                    factors: kept.factors.get(branch as i64),
                    places: kept.places.get(branch as i64),
                },
            },
        })
    }
}

/// How one branch joins the residual stream.
pub(super) enum BranchPath {
    /// For all images.
    Whole,
    /// For all images, multiplied by these factors `[B, 1, 1]`.
    Scaled(Tensor),
    /// For these images `[K]` only, multiplied by one number, which `factors` `[B]` are; `places` `[B]` int32 has
    /// each image's place among them, or -1.
    Kept { images: Tensor, factors: Tensor, places: Tensor },
}

impl BranchPath {
    /// The same tensors once more.
    pub(super) fn shared(&self) -> Self {
        match self {
            Self::Whole => Self::Whole,
            Self::Scaled(factors) => Self::Scaled(factors.shallow_clone()),
            Self::Kept { images, factors, places } => Self::Kept {
                images: images.shallow_clone(),
                factors: factors.shallow_clone(),
                places: places.shallow_clone(),
            },
        }
    }

    /// How many of `batch` images the branch is computed for.
    pub(super) fn count(&self, batch: i64) -> i64 {
        match self {
            Self::Kept { images, .. } => images.size()[0],
            Self::Whole | Self::Scaled(_) => batch,
        }
    }

    /// What each of `batch` images' branch is multiplied by, `[B]` float32, unless that is one.
    pub(super) fn factors(&self, batch: i64) -> Option<Tensor> {
        match self {
            Self::Whole => None,
            Self::Scaled(factors) => Some(factors.view([batch])),
            Self::Kept { factors, .. } => Some(factors.shallow_clone()),
        }
    }

    /// Each image's place in the branch, `[B]` int32, unless that is its own.
    pub(super) fn places(&self) -> Option<&Tensor> {
        match self {
            Self::Kept { places, .. } => Some(places),
            Self::Whole | Self::Scaled(_) => None,
        }
    }

    /// The images `[K]` that the branch is computed for, where it is not all.
    pub(super) fn images(&self) -> Option<&Tensor> {
        match self {
            Self::Kept { images, .. } => Some(images),
            Self::Whole | Self::Scaled(_) => None,
        }
    }

    /// What the branch is computed of: `[B, T, D]` to `[K, T, D]`.
    pub(super) fn select(&self, tokens: &Tensor) -> Tensor {
        match self {
            Self::Kept { images, .. } => tokens.index_select(0, images),
            Self::Whole | Self::Scaled(_) => tokens.shallow_clone(),
        }
    }

    /// `residual` `[B, T, D]` and the `branch` `[K, T, D]`, in new memory.
    pub(super) fn sum(&self, residual: &Tensor, branch: &Tensor) -> Tensor {
        match self {
            Self::Whole => residual + branch,
            Self::Scaled(factors) => residual.addcmul(branch, factors),
            Self::Kept { images, factors, .. } => {
                residual.index_add(0, images, &(branch * one_of(factors)))
            }
        }
    }

    /// The gradient of what [`Self::select`] was given, from that of what it gave, added to `of_sum`.
    pub(super) fn selected_backward(&self, of_sum: &Tensor, of_selected: &Tensor) -> Tensor {
        match self {
            Self::Kept { images, .. } => of_sum.index_add(0, images, of_selected),
            Self::Whole | Self::Scaled(_) => of_sum + of_selected,
        }
    }

    /// The gradient of the branch in its `kind`, given that of the sum.
    pub(super) fn branch_backward(&self, of_sum: &Tensor, kind: Kind) -> Tensor {
        let of_branch = match self {
            Self::Whole => of_sum.shallow_clone(),
            Self::Scaled(factors) => of_sum * factors,
            Self::Kept { factors, .. } => self.select(of_sum) * one_of(factors),
        };
        of_branch.to_kind(kind)
    }

    /// Adds `branch` of the tokens to `residual` `[B, T, D]`: where that can be in its memory, if it
    /// may be overwritten.
    ///
    /// The factors are float32 and widen a bf16 branch in the same kernel.
    pub(super) fn add(
        self,
        mut residual: Tensor,
        may_overwrite: bool,
        branch: impl Fn(&Tensor) -> Tensor,
    ) -> Tensor {
        match self {
            // The branch's backward pass would ask for the residual.
            Self::Whole if may_overwrite && !residual.requires_grad() => {
                let update = branch(&residual);
                residual.g_add_(&update)
            }
            Self::Whole | Self::Scaled(_) => self.sum(&residual, &branch(&residual)),
            // Here nothing of the residual is saved for the backward pass: the branch works on a
            // copy of the rows. An image stands once in the list, so the sum is the same in
            // whatever order a GPU adds.
            Self::Kept { images, factors, .. } => {
                let update = branch(&residual.index_select(0, &images)) * one_of(&factors);
                if may_overwrite {
                    residual.index_add_(0, &images, &update)
                } else {
                    residual.index_add(0, &images, &update)
                }
            }
        }
    }
}

/// The number that all `factors` `[B]` are, `[1, 1, 1]`.
fn one_of(factors: &Tensor) -> Tensor {
    factors.narrow(0, 0, 1).view([1, 1, 1])
}

/// The probability that a branch of this block is dropped: it rises linearly from 0 at the first
/// of `depth` blocks to `rate` at the last.
fn probability(rate: f64, block: usize, depth: usize) -> f64 {
    rate * block as f64 / (depth - 1).max(1) as f64
}

/// The images of a batch that keep each of `depth × 2` branches (attention, then MLP), ascending:
/// a fixed share, `B · (1 − p)` rounded and at least one.
///
/// What is kept of a branch has to be multiplied by B over their number: each image is kept with
/// the same probability, so the expectation is that of the whole branch. The share is one of the
/// batch, so unlike [`drop_path_scales`] the draws depend on how the global batch is divided; the
/// key is the position of the batch's first image.
pub fn kept_images(
    rate: f64,
    depth: usize,
    seed: u64,
    rng_stream: u64,
    positions: Range<u64>,
) -> Vec<Vec<i64>> {
    let batch = (positions.end - positions.start) as usize;
    let mut draws = Draws::new(seed, Purpose::DropPath, rng_stream, positions.start);
    let kept = |branch: usize| {
        let share = 1.0 - probability(rate, branch / 2, depth);
        let count = ((batch as f64 * share).round() as usize).max(1);
        let mut images: Vec<i64> =
            draws.choose(batch, count).into_iter().map(|image| image as i64).collect();
        images.sort_unstable();
        images
    };
    (0..depth * 2).map(kept).collect()
}

/// What each branch is multiplied by: 0 where the path is dropped, 1 / (1 − p) where it is kept.
///
/// Returns `depth × 2 × B` numbers in that order (attention, then MLP).
/// Draws are keyed by the image's position in the stream, so they do not depend on how the
/// global batch is divided.
pub fn drop_path_scales(
    rate: f64,
    depth: usize,
    seed: u64,
    rng_stream: u64,
    positions: Range<u64>,
) -> Vec<f32> {
    let batch = (positions.end - positions.start) as usize;
    let mut scales = vec![0f32; depth * 2 * batch];
    for (image, position) in positions.enumerate() {
        let mut draws = Draws::new(seed, Purpose::DropPath, rng_stream, position);
        for branch in 0..depth * 2 {
            let dropped = probability(rate, branch / 2, depth);
            let kept = draws.uniform() >= dropped;
            scales[branch * batch + image] =
                if kept { (1.0 / (1.0 - dropped)) as f32 } else { 0.0 };
        }
    }
    scales
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_linearly_and_keeps_the_expectation() {
        let (depth, batch) = (5, 20_000);
        let scales = drop_path_scales(0.4, depth, 0, 0, 0..batch as u64);
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
        let whole = drop_path_scales(0.3, 2, 9, 1, 10..14);
        let parts = [10..12, 12..14].map(|part| drop_path_scales(0.3, 2, 9, 1, part));
        for branch in 0..4 {
            let joined = [&parts[0][branch * 2..][..2], &parts[1][branch * 2..][..2]].concat();
            assert_eq!(whole[branch * 4..][..4], joined);
        }
    }

    #[test]
    fn a_fixed_share_stays_and_keeps_the_expectation() {
        let (depth, batch, rounds) = (5, 10, 4_000);
        let mut sums = vec![[0f64; 10]; depth * 2];
        for round in 0..rounds {
            let start = round * batch as u64;
            let kept = kept_images(0.5, depth, 3, 1, start..start + batch as u64);
            for (branch, images) in kept.iter().enumerate() {
                // 10, 8.75, 7.5, 6.25 and 5 of ten.
                assert_eq!(images.len(), [10, 9, 8, 6, 5][branch / 2]);
                assert!(images.windows(2).all(|pair| pair[0] < pair[1]));
                for &image in images {
                    sums[branch][image as usize] += batch as f64 / images.len() as f64;
                }
            }
        }
        for mean in sums.iter().flatten().map(|sum| sum / rounds as f64) {
            // The deviation of the mean is at most 1 / √4000 = 0.016.
            assert!((mean - 1.0).abs() < 0.07, "mean {mean}");
        }
    }

    #[test]
    fn one_image_always_stays() {
        assert!(kept_images(0.9, 3, 0, 0, 5..6).iter().all(|kept| kept == &[0]));
    }

    #[test]
    fn kept_images_depend_on_the_place_in_the_stream() {
        let kept = |rng_stream, start| kept_images(0.5, 4, 7, rng_stream, start..start + 16);
        assert_eq!(kept(0, 32), kept(0, 32));
        assert_ne!(kept(0, 32), kept(0, 48));
        assert_ne!(kept(0, 32), kept(1, 32));
    }
}
