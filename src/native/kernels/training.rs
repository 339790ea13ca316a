//! The kernels of blocks that are trained.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};

use super::compile::KernelSource;
use super::module::{Argument, Function, Module, launch_gelu};
use super::{HELD, RowNorm, WARP, threads_of_row};

/// Threads of a block that sums columns.
const COLUMN_THREADS: usize = 256;
/// Blocks that share the rows where sums over them are made: four for each of an H100's 132 multiprocessors, each
/// of which leaves a part of the sum.
const JOINING_GROUPS: usize = 528;
/// The same where there is little else to do for a row.
const COLUMN_GROUPS: usize = 1056;
/// The widest rows, of 384 threads: so that each has 80 registers, and four blocks of narrower rows fit.
const MOST_DIM: usize = 3072;

/// Whether rows of `dim` numbers can be joined and normalised.
pub fn training_kernels_fit(dim: usize) -> bool {
    dim > 0 && dim.is_multiple_of(HELD) && dim <= MOST_DIM
}

/// Blocks, in x over columns and in y over rows, and threads of a kernel that sums the columns of `[rows, dim]`.
pub fn column_grid(rows: usize, dim: usize) -> ([usize; 2], usize) {
    let vectors = dim / HELD;
    let ranges = vectors.div_ceil(COLUMN_THREADS).max(1);
    let threads = vectors.div_ceil(ranges).next_multiple_of(WARP);
    ([ranges, (COLUMN_GROUPS / ranges).clamp(1, rows.max(1))], threads)
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

/// The kernels, loaded into one GPU until the process ends.
pub struct TrainingKernels {
    module: Module,
    join: Function,
    join_backward: Function,
    gelu: Function,
    gelu_backward: Function,
    column_sums: Function,
    sum_parts: Function,
}

impl TrainingKernels {
    /// Those of a GPU, loaded when they are first asked for.
    ///
    /// # Errors
    /// `device` is none, or NVRTC or the driver cannot be found or fails; the same whenever it is asked again.
    pub fn of(device: Device) -> Result<&'static Self, &'static str> {
        type Loaded = Result<TrainingKernels, String>;
        static LOADED: OnceLock<Mutex<HashMap<usize, &'static Loaded>>> = OnceLock::new();
        let Device::Cuda(index) = device else { return Err("they need a GPU") };
        let loaded = LOADED.get_or_init(Mutex::default).lock();
        // A panic while it was held left it as it was: an entry is put in whole.
        let mut loaded = loaded.unwrap_or_else(std::sync::PoisonError::into_inner);
        let entry = loaded.entry(index).or_insert_with(|| {
            let kernels = Self::load(device).map_err(|error| format!("{error:#}"));
            // Never freed: a GPU's kernels stay until the process ends.
            Box::leak(Box::new(kernels))
        });
        entry.as_ref().map_err(String::as_str)
    }

    fn load(device: Device) -> Result<Self> {
        let module = Module::load(KernelSource::Training, device)?;
        let function = |name: &str| module.function(name);
        Ok(Self {
            join: function("join_and_normalise")?,
            join_backward: function("join_and_normalise_backward")?,
            gelu: function("gelu")?,
            gelu_backward: function("gelu_backward")?,
            column_sums: function("column_sums")?,
            sum_parts: function("sum_parts")?,
            module,
        })
    }

    /// Adds a `branch` `[K, T, D]` bf16, if there is one, to the `residual` `[B, T, D]` float32, and normalises the sum.
    ///
    /// # Errors
    /// Tensors of other shapes, kinds or devices, or that are not contiguous, or a width that does not fit
    /// ([`training_kernels_fit`]); or the driver fails.
    pub fn join(
        &self,
        joining: &Joining,
        residual: &Tensor,
        branch: Option<&Tensor>,
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
            Argument::Count(tokens as u32),
            Argument::Count(dim as u32),
            Argument::Real(norm.eps as f32),
        ];
        let grid = ([(batch * tokens) as usize, 1], threads_of_row(dim as usize));
        // SAFETY: checked just now: all tensors are on this GPU, without gaps, and of the shapes and kinds that
        // the kernel reads and writes. Places are below the number of images, as `DropPath` makes them.
        unsafe { self.module.launch(self.join, grid, &arguments)? };
        Ok(Joined { sum, normalised, statistics })
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

    /// GELU of `input` bf16, by the error function.
    ///
    /// # Errors
    /// Another kind or device, gaps, or a count that is no multiple of 8; or the driver fails.
    pub fn gelu(&self, input: &Tensor) -> Result<Tensor> {
        let output = Tensor::f_empty(input.size(), (Kind::BFloat16, self.module.device()))?;
        launch_gelu(&self.module, self.gelu, input, &output)?;
        Ok(output)
    }

    /// The gradient of GELU's `input` `[..., D]` bf16, given that of its output, and its sum over all rows, `[D]`
    /// float32.
    ///
    /// # Errors
    /// Those of [`Self::gelu`], of D.
    pub fn gelu_backward(&self, gradient: &Tensor, input: &Tensor) -> Result<(Tensor, Tensor)> {
        let (rows, dim) = self.require_rows(input)?;
        self.module.require(gradient, &input.size(), Kind::BFloat16)?;
        let output = Tensor::f_empty(input.size(), (Kind::BFloat16, self.module.device()))?;
        let (grid, parts) = self.column_parts(rows, dim)?;
        let arguments = [
            Argument::Numbers(Some(gradient)),
            Argument::Numbers(Some(input)),
            Argument::Numbers(Some(&output)),
            Argument::Numbers(Some(&parts)),
            Argument::Count(rows as u32),
            Argument::Count(dim as u32),
        ];
        // SAFETY: rows of these kinds and this width are in all of them.
        unsafe { self.module.launch(self.gelu_backward, grid, &arguments)? };
        Ok((output, self.sum_parts(&parts)?))
    }

    /// The sum of `numbers` `[..., D]` bf16 over all rows: `[D]` float32.
    ///
    /// # Errors
    /// Those of [`Self::gelu`], of D.
    pub fn column_sums(&self, numbers: &Tensor) -> Result<Tensor> {
        let (rows, dim) = self.require_rows(numbers)?;
        let (grid, parts) = self.column_parts(rows, dim)?;
        let arguments = [
            Argument::Numbers(Some(numbers)),
            Argument::Numbers(Some(&parts)),
            Argument::Count(rows as u32),
            Argument::Count(dim as u32),
        ];
        // SAFETY: as in `gelu_backward`.
        unsafe { self.module.launch(self.column_sums, grid, &arguments)? };
        self.sum_parts(&parts)
    }

    /// The grid of a kernel that sums columns, and memory for its parts.
    fn column_parts(&self, rows: usize, dim: usize) -> Result<(([usize; 2], usize), Tensor)> {
        let grid = column_grid(rows, dim);
        let shape = [grid.0[1] as i64, dim as i64];
        Ok((grid, Tensor::f_empty(shape, (Kind::Float, self.module.device()))?))
    }

    /// `[G, ...]` float32 summed over the first dimension.
    fn sum_parts(&self, parts: &Tensor) -> Result<Tensor> {
        let shape = parts.size();
        let total = Tensor::f_empty(&shape[1..], (Kind::Float, self.module.device()))?;
        let width = total.numel();
        let arguments = [
            Argument::Numbers(Some(parts)),
            Argument::Numbers(Some(&total)),
            Argument::Count(shape[0] as u32),
            Argument::Count(width as u32),
        ];
        let grid = ([width.div_ceil(WARP), 1], COLUMN_THREADS);
        // SAFETY: both were made here.
        unsafe { self.module.launch(self.sum_parts, grid, &arguments)? };
        Ok(total)
    }

    /// Rows and width of `numbers` `[..., D]` bf16.
    fn require_rows(&self, numbers: &Tensor) -> Result<(usize, usize)> {
        self.module.require(numbers, &numbers.size(), Kind::BFloat16)?;
        let dim = *numbers.size().last().context("rows are [..., D]")? as usize;
        ensure!(dim > 0 && dim.is_multiple_of(HELD), "rows of {dim} numbers do not fit the kernel");
        Ok((numbers.numel() / dim, dim))
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
    fn columns_and_rows_are_shared_out() {
        assert_eq!(column_grid(8704, 6144), ([3, 352], 256));
        assert_eq!(column_grid(8704, 4608), ([3, 352], 192));
        assert_eq!(column_grid(10, 1536), ([1, 10], 192));
        assert_eq!(column_grid(0, 8), ([1, 1], 32));
        assert_eq!((row_groups(8704), row_groups(3)), (528, 3));
        let widths = [0, 12, 8, 1536, 3072, 3080];
        assert_eq!(widths.map(training_kernels_fit), [false, false, true, true, true, false]);
    }

    #[test]
    fn a_cpu_has_none() {
        assert_eq!(TrainingKernels::of(Device::Cpu).err(), Some("they need a GPU"));
    }
}
