//! The kernels of a frozen encoder.

use anyhow::{Context, Result, bail, ensure};
use tch::{Device, Kind, Tensor};

use super::compile::KernelSource;
use super::module::{Argument, Function, Module, empty_rows, launch_gelu, launch_rounding};
use super::rows::{RoundedRows, RowNorm, kernels_fit, threads_of_row};

/// What is computed of numbers before they are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeforeRounding {
    Nothing,
    /// GELU, by the error function.
    Gelu,
}

/// The kernels, loaded into one GPU until the process ends.
pub struct TeacherKernels {
    module: Module,
    /// To bf16, for a residual in float32 and in bf16.
    normalise: [Function; 2],
    /// The same to e4m3.
    normalise_and_round: [Function; 2],
    round: Function,
    gelu_and_round: Function,
    gelu: Function,
}

impl TeacherKernels {
    /// Compiles and loads the kernels for `device`.
    ///
    /// # Errors
    /// It is no GPU, or NVRTC or the driver cannot be found or fails.
    pub fn load(device: Device) -> Result<Self> {
        let module = Module::load(KernelSource::Frozen, device)?;
        let function = |name: &str| module.function(name);
        Ok(Self {
            normalise: [function("add_layer_norm_float32")?, function("add_layer_norm_bf16")?],
            normalise_and_round: [
                function("add_layer_norm_float32_e4m3")?,
                function("add_layer_norm_bf16_e4m3")?,
            ],
            round: function("round_e4m3")?,
            gelu_and_round: function("gelu_e4m3")?,
            gelu: function("gelu")?,
            module,
        })
    }

    /// Adds `branch` (bf16) to `residual` (float32 or bf16) in place, if there is one, and gives
    /// the sum's LayerNorm in bf16; all are `[..., D]`. For D see [`kernels_fit`]. The work is only
    /// begun when this returns, as with libtorch's own operators.
    ///
    /// # Errors
    /// Tensors of other shapes, kinds or devices, or that are not contiguous or need a gradient; or the
    /// driver fails.
    pub fn add_layer_norm(
        &self,
        residual: &mut Tensor,
        branch: Option<&Tensor>,
        norm: &RowNorm,
    ) -> Result<Tensor> {
        let output = Tensor::empty(residual.size(), (Kind::BFloat16, self.module.device()));
        self.normalise(self.normalise, residual, branch, norm, (&output, None))?;
        Ok(output)
    }

    /// As [`Self::add_layer_norm`], of which each row is rounded further, to e4m3.
    ///
    /// # Errors
    /// Those of [`Self::add_layer_norm`].
    pub fn add_layer_norm_rounded(
        &self,
        residual: &mut Tensor,
        branch: Option<&Tensor>,
        norm: &RowNorm,
    ) -> Result<RoundedRows> {
        let rows = empty_rows(&self.module, residual)?;
        let to = (&rows.values, Some(&rows.scales));
        self.normalise(self.normalise_and_round, residual, branch, norm, to)?;
        Ok(rows)
    }

    fn normalise(
        &self,
        functions: [Function; 2],
        residual: &Tensor,
        branch: Option<&Tensor>,
        norm: &RowNorm,
        (output, scales): (&Tensor, Option<&Tensor>),
    ) -> Result<()> {
        let shape = residual.size();
        let dim = *shape.last().context("rows are [..., D]")?;
        ensure!(kernels_fit(dim as usize), "rows of {dim} numbers do not fit the kernel");
        let function = match residual.kind() {
            Kind::Float => functions[0],
            Kind::BFloat16 => functions[1],
            other => bail!("a residual stream in {other:?}"),
        };
        ensure!(!residual.requires_grad(), "a residual stream that needs a gradient");
        self.module.require(residual, &shape, residual.kind())?;
        self.module.require(norm.weight, &[dim], residual.kind())?;
        self.module.require(norm.bias, &[dim], residual.kind())?;
        if let Some(branch) = branch {
            self.module.require(branch, &shape, Kind::BFloat16)?;
        }
        let tensors =
            [Some(residual), branch, Some(norm.weight), Some(norm.bias), Some(output), scales];
        let mut arguments = Vec::from(tensors.map(Argument::Numbers));
        arguments.extend([Argument::Count(dim as u32), Argument::Real(norm.eps as f32)]);
        let grid = ([residual.numel() / dim as usize, 1], threads_of_row(dim as usize));
        // SAFETY: checked just now: all tensors are on this GPU, without gaps, and as large as so many rows
        // of `dim` numbers of their kinds, which is what these kernels read and write.
        unsafe { self.module.launch(function, grid, &arguments) }
    }

    /// Each row of `numbers` `[..., D]` bf16, or of what is computed of it, in e4m3. For D see
    /// [`super::rounding_fits`].
    ///
    /// # Errors
    /// A tensor of another kind or device, or that is not contiguous; or the driver fails.
    pub fn rounded(&self, numbers: &Tensor, before: BeforeRounding) -> Result<RoundedRows> {
        let function = match before {
            BeforeRounding::Nothing => self.round,
            BeforeRounding::Gelu => self.gelu_and_round,
        };
        launch_rounding(&self.module, function, numbers, None)
    }

    /// GELU of `numbers` bf16, in their place.
    ///
    /// # Errors
    /// A tensor of another kind or device, that is not contiguous, or whose count is no multiple of 8; or the driver
    /// fails.
    pub fn gelu(&self, numbers: &mut Tensor) -> Result<()> {
        launch_gelu(&self.module, self.gelu, numbers, numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_has_no_kernels() {
        let error = TeacherKernels::load(Device::Cpu).err().unwrap();
        assert_eq!(error.to_string(), "they need a GPU");
    }
}
