//! Rows in e4m3 of what is trained.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use super::loaded::TrainingKernels;
use crate::native::kernels::module::{Argument, launch_rounding};
use crate::native::kernels::rows::RoundedRows;

/// Threads of a block that rounds a part of a weight, and that part's rows and columns.
const TILE_THREADS: usize = 256;
const TILE: [usize; 2] = [32, 256];

impl TrainingKernels {
    /// Each row of `numbers` `[..., D]` bf16 in e4m3.
    ///
    /// # Errors
    /// A tensor of another kind or device, or that is not contiguous, or a width that does not fit
    /// ([`crate::native::rounding_fits`]); or the driver fails.
    pub fn rounded(&self, numbers: &Tensor) -> Result<RoundedRows> {
        launch_rounding(&self.module, self.round, numbers, None)
    }

    /// GELU of `input` `[..., D]` bf16, and that in e4m3 too.
    ///
    /// # Errors
    /// Those of [`Self::rounded`].
    pub fn gelu_rounded(&self, input: &Tensor) -> Result<(Tensor, RoundedRows)> {
        let output = Tensor::f_empty(input.size(), (Kind::BFloat16, self.module.device()))?;
        let rows = launch_rounding(&self.module, self.gelu_and_round, input, Some(&output))?;
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
}
