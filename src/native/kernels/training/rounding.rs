//! Rows in e4m3 of what is trained.

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};

use super::loaded::TrainingKernels;
use crate::native::kernels::module::Argument;
use crate::native::kernels::rows::{RoundedRows, rounding_fits, threads_that_round};

/// Threads of a block that rounds a part of a weight, and that part's rows and columns.
const TILE_THREADS: usize = 256;
const TILE: [usize; 2] = [32, 256];

impl TrainingKernels {
    /// Each row of `numbers` `[..., D]` bf16 in e4m3.
    ///
    /// # Errors
    /// A tensor of another kind or device, or that is not contiguous, or a width that does not fit
    /// ([`rounding_fits`]); or the driver fails.
    pub fn rounded(&self, numbers: &Tensor) -> Result<RoundedRows> {
        let (count, dim) = self.require_rounding(numbers)?;
        let rows = self.empty_rows(numbers)?;
        let arguments = [
            Argument::Numbers(Some(numbers)),
            Argument::Numbers(Some(&rows.values)),
            Argument::Numbers(Some(&rows.scales)),
            Argument::Count(dim as u32),
        ];
        let grid = ([count, 1], threads_that_round(dim));
        // SAFETY: as many rows of this width are in all of them.
        unsafe { self.module.launch(self.round, grid, &arguments)? };
        Ok(rows)
    }

    /// GELU of `input` `[..., D]` bf16, and that in e4m3 too.
    ///
    /// # Errors
    /// Those of [`Self::rounded`].
    pub fn gelu_rounded(&self, input: &Tensor) -> Result<(Tensor, RoundedRows)> {
        let (count, dim) = self.require_rounding(input)?;
        let output = Tensor::f_empty(input.size(), (Kind::BFloat16, self.module.device()))?;
        let rows = self.empty_rows(input)?;
        let arguments = [
            Argument::Numbers(Some(input)),
            Argument::Numbers(Some(&output)),
            Argument::Numbers(Some(&rows.values)),
            Argument::Numbers(Some(&rows.scales)),
            Argument::Count(dim as u32),
        ];
        let grid = ([count, 1], threads_that_round(dim));
        // SAFETY: as in `rounded`.
        unsafe { self.module.launch(self.gelu_and_round, grid, &arguments)? };
        Ok((output, rows))
    }

    /// A `weight` `[N, K]` float32 in e4m3, with a scale for each of the N, and turned, `[K, N]`, with a scale for each
    /// of the K.
    ///
    /// # Errors
    /// Another kind or device, gaps, or sizes that are no multiples of 16; or the driver fails.
    pub fn rounded_weight(&self, weight: &Tensor) -> Result<[RoundedRows; 2]> {
        let (to, from) = weight.size2()?;
        let fits = to % 16 == 0 && from % 16 == 0;
        ensure!(fits, "a weight of {to} × {from} does not fit the kernel");
        self.module.require(weight, &[to, from], Kind::Float)?;
        let device = self.module.device();
        let both = Tensor::f_zeros([to + from], (Kind::Int, device))?;
        let maxima = [both.f_narrow(0, 0, to)?, both.f_narrow(0, to, from)?];
        let rows = |rows: i64, columns: i64| -> Result<_> {
            Ok(RoundedRows {
                values: Tensor::f_empty([rows, columns], (Kind::Float8e4m3fn, device))?,
                scales: Tensor::f_empty([rows, 1], (Kind::Float, device))?,
            })
        };
        let (straight, turned) = (rows(to, from)?, rows(from, to)?);
        let tiles = |size: i64, of: usize| (size as usize).div_ceil(of);
        let grid = ([tiles(from, TILE[1]), tiles(to, TILE[0])], TILE_THREADS);
        let numbers = |tensor| Argument::Numbers(Some(tensor));
        let sizes = || [Argument::Count(to as u32), Argument::Count(from as u32)];
        let mut looked_at = vec![numbers(weight), numbers(&maxima[0]), numbers(&maxima[1])];
        looked_at.extend(sizes());
        let mut written = vec![numbers(weight), numbers(&maxima[0]), numbers(&maxima[1])];
        written.extend([&straight.values, &turned.values].map(numbers));
        written.extend([&straight.scales, &turned.scales].map(numbers));
        written.extend(sizes());
        // SAFETY: the weight was checked, and the others were made here to these sizes.
        unsafe {
            self.module.launch(self.weight_maxima, grid, &looked_at)?;
            self.module.launch(self.weight_e4m3, grid, &written)?;
        }
        Ok([straight, turned])
    }

    /// Rows and width of `numbers` `[..., D]` bf16.
    fn require_rounding(&self, numbers: &Tensor) -> Result<(usize, usize)> {
        let (rows, dim) = self.require_rows(numbers)?;
        ensure!(rounding_fits(dim), "rows of {dim} numbers do not fit the kernel");
        Ok((rows, dim))
    }

    /// Memory for as many rows as `[..., D]` has.
    pub(super) fn empty_rows(&self, like: &Tensor) -> Result<RoundedRows> {
        let dim = *like.size().last().context("rows are [..., D]")?;
        let count = like.numel() as i64 / dim.max(1);
        let device = self.module.device();
        Ok(RoundedRows {
            values: Tensor::f_empty([count, dim], (Kind::Float8e4m3fn, device))?,
            scales: Tensor::f_empty([count, 1], (Kind::Float, device))?,
        })
    }
}
