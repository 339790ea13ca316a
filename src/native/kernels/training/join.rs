//! A branch's addition to the residual stream with the norm behind it.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use super::loaded::TrainingKernels;
use crate::native::kernels::module::{Argument, empty_rows};
use crate::native::kernels::rows::{HELD, RoundedRows, RowNorm, threads_of_row};

/// Blocks that share the rows where sums over them are made: four for each of an H100's 132 multiprocessors, each
/// of which leaves a part of the sum.
const JOINING_GROUPS: usize = 528;
/// The widest rows, of 384 threads: so that each has 80 registers, and four blocks of narrower rows fit.
const MOST_DIM: usize = 3072;

/// Whether rows of `dim` numbers can be joined and normalised.
pub fn training_kernels_fit(dim: usize) -> bool {
    dim > 0 && dim.is_multiple_of(HELD) && dim <= MOST_DIM
}

/// Blocks that share `rows` in the backward pass of a LayerNorm.
pub fn row_groups(rows: usize) -> usize {
    JOINING_GROUPS.min(rows)
}

/// How a branch is added to the residual and the sum normalised. All images stand for those that a branch is
/// computed for where there are no places.
pub struct Joining<'a> {
    /// What each image's branch is multiplied by, `[B]` float32; nothing by ones.
    pub factors: Option<&'a Tensor>,
    /// Each image's place in the branch, `[B]` int32, or -1.
    pub branch_places: Option<&'a Tensor>,
    /// Each image's place in the output, `[B]` int32, or -1.
    pub places: Option<&'a Tensor>,
    /// How many images the output has.
    pub images: i64,
    pub norm: RowNorm<'a>,
}

/// What it gives.
pub struct Joined {
    /// `[B, T, D]` float32; the residual itself where nothing was added.
    pub sum: Tensor,
    /// Its LayerNorm, `[images, T, D]` bf16.
    pub normalised: Tensor,
    /// The same in e4m3, if it was wanted.
    pub rounded: Option<RoundedRows>,
    /// Means and inverse deviations, `[images, T, 2]` float32.
    pub statistics: Tensor,
}

/// What its backward pass gives.
pub struct JoinGradients {
    /// `[B, T, D]` float32.
    pub residual: Tensor,
    pub branch: Option<BranchGradient>,
    /// `[D]` float32.
    pub weight: Tensor,
    /// `[D]` float32.
    pub bias: Tensor,
}

/// The gradient of a branch.
pub struct BranchGradient {
    /// `[K, T, D]` bf16.
    pub values: Tensor,
    /// Its sum over all tokens, `[D]` float32: the gradient of a bias that the branch ends with.
    pub sum: Tensor,
}

impl TrainingKernels {
    /// Adds a `branch` `[K, T, D]` bf16, if there is one, to the `residual` `[B, T, D]` float32, and normalises the sum,
    /// which is also rounded if that is wanted.
    ///
    /// # Errors
    /// Tensors of other shapes, kinds or devices, or that are not contiguous, or a width that does not fit
    /// ([`training_kernels_fit`]); or the driver fails.
    pub fn join(
        &self,
        joining: &Joining,
        residual: &Tensor,
        branch: Option<&Tensor>,
        round: bool,
    ) -> Result<Joined> {
        let Joining { norm, images, .. } = joining;
        let (batch, tokens, dim) = self.require_joining(joining, residual)?;
        if let Some(branch) = branch {
            let added = branch.size3()?.0;
            self.module.require(branch, &[added, tokens, dim], Kind::BFloat16)?;
            let all = joining.branch_places.is_some() || added == batch;
            ensure!(all, "a branch of {added} images without their places among {batch}");
        }
        let on = |kind| (kind, self.module.device());
        let sum = match branch {
            Some(_) => Tensor::f_empty([batch, tokens, dim], on(Kind::Float))?,
            None => residual.shallow_clone(),
        };
        let normalised = Tensor::f_empty([*images, tokens, dim], on(Kind::BFloat16))?;
        let rounded = round.then(|| empty_rows(&self.module, &normalised)).transpose()?;
        let statistics = Tensor::f_empty([*images, tokens, 2], on(Kind::Float))?;
        let numbers = Argument::Numbers;
        let arguments = [
            numbers(Some(residual)),
            numbers(branch),
            numbers(joining.factors),
            numbers(joining.branch_places),
            numbers(joining.places),
            numbers(Some(norm.weight)),
            numbers(Some(norm.bias)),
            numbers(Some(&sum)),
            numbers(Some(&normalised)),
            numbers(Some(&statistics)),
            numbers(rounded.as_ref().map(|rows| &rows.values)),
            numbers(rounded.as_ref().map(|rows| &rows.scales)),
            Argument::Count(tokens as u32),
            Argument::Count(dim as u32),
            Argument::Real(norm.eps as f32),
        ];
        let grid = ([(batch * tokens) as usize, 1], threads_of_row(dim as usize));
        // SAFETY: checked just now: all tensors are on this GPU, without gaps, and of the shapes and kinds that
        // the kernel reads and writes. Places are below the number of images, as `DropPath` makes them.
        unsafe { self.module.launch(self.join, grid, &arguments)? };
        Ok(Joined { sum, normalised, rounded, statistics })
    }

    /// The backward pass of [`Self::join`], which gave `sum` and `statistics`, of a branch of so many images, given
    /// the gradients of what is normalised and of the sum.
    ///
    /// # Errors
    /// Those of [`Self::join`].
    pub fn join_backward(
        &self,
        joining: &Joining,
        [sum, statistics]: [&Tensor; 2],
        branch_images: Option<i64>,
        (of_normalised, of_sum): (&Tensor, Option<&Tensor>),
    ) -> Result<JoinGradients> {
        let Joining { norm, images, .. } = joining;
        let (batch, tokens, dim) = self.require_joining(joining, sum)?;
        self.module.require(of_normalised, &[*images, tokens, dim], Kind::BFloat16)?;
        self.module.require(statistics, &[*images, tokens, 2], Kind::Float)?;
        if let Some(of_sum) = of_sum {
            self.module.require(of_sum, &[batch, tokens, dim], Kind::Float)?;
        }
        let on = |kind| (kind, self.module.device());
        let rows = batch * tokens;
        let groups = row_groups(rows as usize);
        let residual = Tensor::f_empty([batch, tokens, dim], on(Kind::Float))?;
        let of_images = |images| Tensor::f_empty([images, tokens, dim], on(Kind::BFloat16));
        let values = branch_images.map(of_images).transpose()?;
        let parts = Tensor::f_empty([groups as i64, 3, dim], on(Kind::Float))?;
        let numbers = Argument::Numbers;
        let arguments = [
            numbers(Some(of_normalised)),
            numbers(of_sum),
            numbers(Some(sum)),
            numbers(Some(statistics)),
            numbers(Some(norm.weight)),
            numbers(joining.factors),
            numbers(joining.branch_places),
            numbers(joining.places),
            numbers(Some(&residual)),
            numbers(values.as_ref()),
            numbers(Some(&parts)),
            Argument::Count(rows as u32),
            Argument::Count(tokens as u32),
            Argument::Count(dim as u32),
        ];
        // SAFETY: as in `join`.
        unsafe {
            let grid = ([groups, 1], threads_of_row(dim as usize));
            self.module.launch(self.join_backward, grid, &arguments)?;
        }
        let sums = self.sum_parts(&parts)?;
        let branch = values.map(|values| BranchGradient { values, sum: sums.get(2) });
        Ok(JoinGradients { residual, branch, weight: sums.get(0), bias: sums.get(1) })
    }

    /// B, T and D of the residual.
    fn require_joining(&self, joining: &Joining, residual: &Tensor) -> Result<(i64, i64, i64)> {
        let (batch, tokens, dim) = residual.size3()?;
        let fits = training_kernels_fit(dim as usize);
        ensure!(fits, "rows of {dim} numbers do not fit the kernel");
        self.module.require(residual, &[batch, tokens, dim], Kind::Float)?;
        for of_norm in [joining.norm.weight, joining.norm.bias] {
            self.module.require(of_norm, &[dim], Kind::Float)?;
        }
        let all = joining.places.is_some() || joining.images == batch;
        ensure!(all, "{} images without their places among {batch}", joining.images);
        // These are read one at a time, so wherever they begin.
        let small = [
            (joining.factors, Kind::Float),
            (joining.branch_places, Kind::Int),
            (joining.places, Kind::Int),
        ];
        for (tensor, kind) in small {
            let Some(tensor) = tensor else { continue };
            let found = (tensor.size(), tensor.kind(), tensor.device(), tensor.is_contiguous());
            let expected = (vec![batch], kind, self.module.device(), true);
            ensure!(found == expected, "found {found:?}, expected {expected:?}");
        }
        Ok((batch, tokens, dim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shared_out() {
        assert_eq!((row_groups(8704), row_groups(3)), (528, 3));
        let widths = [0, 12, 8, 1536, 3072, 3080];
        assert_eq!(widths.map(training_kernels_fit), [false, false, true, true, true, false]);
    }
}
