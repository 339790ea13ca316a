//! The kernels of blocks that are trained, in a GPU; GELU and sums of columns.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::native::kernels::compile::KernelSource;
use crate::native::kernels::module::{Argument, Function, Module, launch_gelu};
use crate::native::kernels::rows::{HELD, WARP};

/// Threads of a block that sums columns.
const COLUMN_THREADS: usize = 256;
/// Blocks that share the rows where columns are summed, each of which leaves a part of the sum.
const COLUMN_GROUPS: usize = 1056;

/// Blocks, in x over columns and in y over rows, and threads of a kernel that sums the columns of `[rows, dim]`.
pub fn column_grid(rows: usize, dim: usize) -> ([usize; 2], usize) {
    let vectors = dim / HELD;
    let ranges = vectors.div_ceil(COLUMN_THREADS).max(1);
    let threads = vectors.div_ceil(ranges).next_multiple_of(WARP);
    ([ranges, (COLUMN_GROUPS / ranges).clamp(1, rows.max(1))], threads)
}

/// The kernels, loaded into one GPU until the process ends.
pub struct TrainingKernels {
    pub(super) module: Module,
    pub(super) join: Function,
    pub(super) join_backward: Function,
    pub(super) gelu: Function,
    pub(super) gelu_backward: Function,
    pub(super) column_sums: Function,
    pub(super) sum_parts: Function,
    pub(super) round: Function,
    pub(super) gelu_and_round: Function,
    pub(super) weight_maxima: Function,
    pub(super) weight_e4m3: Function,
}

impl TrainingKernels {
    /// Those of a GPU, loaded when they are first asked for.
    ///
    /// # Errors
    /// `device` is none, or NVRTC or the driver cannot be found or fails; the same whenever it is asked again.
    pub fn of(device: Device) -> Result<&'static Self, &'static str> {
        type Loaded = Result<TrainingKernels, String>;
        static LOADED: Mutex<BTreeMap<usize, &'static Loaded>> = Mutex::new(BTreeMap::new());
        let Device::Cuda(index) = device else { return Err("they need a GPU") };
        // A panic while it was held left it as it was: an entry is put in whole.
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
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
            round: function("round_e4m3")?,
            gelu_and_round: function("gelu_and_round")?,
            weight_maxima: function("weight_maxima")?,
            weight_e4m3: function("weight_e4m3")?,
            module,
        })
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
    pub(super) fn sum_parts(&self, parts: &Tensor) -> Result<Tensor> {
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
    pub(super) fn require_rows(&self, numbers: &Tensor) -> Result<(usize, usize)> {
        self.module.require(numbers, &numbers.size(), Kind::BFloat16)?;
        let dim = *numbers.size().last().context("rows are [..., D]")? as usize;
        ensure!(dim > 0 && dim.is_multiple_of(HELD), "rows of {dim} numbers do not fit the kernel");
        Ok((numbers.numel() / dim, dim))
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
    }

    #[test]
    fn a_cpu_has_none() {
        assert_eq!(TrainingKernels::of(Device::Cpu).err(), Some("they need a GPU"));
    }
}
