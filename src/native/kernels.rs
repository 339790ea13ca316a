//! Our own GPU kernels for a frozen encoder: compiled by NVRTC when a run begins, launched in
//! libtorch's current stream.
//!
//! The driver and NVRTC are opened by name at run time, so the program starts without either.

use std::ffi::{CString, c_char, c_void};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use cudarc::driver::{result as driver, sys};
use cudarc::nvrtc::{self, CompileError, CompileOptions, Ptx};
use libloading::Library;
use tch::{Device, Kind, Tensor};

use super::device::{Gpu, cuda_index};
use super::shim::{Handle, check};

unsafe extern "C" {
    fn distill_current_stream(cuda: i64, stream: *mut Handle) -> *mut c_char;
}

/// The kernels, in CUDA C++.
pub const KERNEL_SOURCE: &str = include_str!("kernels.cu");

/// Neighbouring numbers of a row that a thread holds in its registers.
const HELD: usize = 8;
/// How many times so many it holds where rows are only rounded.
const VECTORS: usize = 2;
/// Most threads of a block on any GPU.
const MOST_THREADS: usize = 1024;
const WARP: usize = 32;

/// Whether rows of `dim` numbers can be normalised.
pub fn kernels_fit(dim: usize) -> bool {
    dim > 0 && dim.is_multiple_of(HELD) && dim <= HELD * MOST_THREADS
}

/// Whether rows of `dim` numbers can be rounded.
pub fn rounding_fits(dim: usize) -> bool {
    dim > 0 && dim.is_multiple_of(HELD) && dim <= VECTORS * HELD * MOST_THREADS
}

/// Threads that normalise a row of `dim` numbers: whole warps.
pub fn threads_of_row(dim: usize) -> usize {
    (dim / HELD).next_multiple_of(WARP)
}

/// Threads that round a row of `dim` numbers: whole warps.
pub fn threads_that_round(dim: usize) -> usize {
    dim.div_ceil(VECTORS * HELD).next_multiple_of(WARP)
}

/// Compiles [`KERNEL_SOURCE`] for GPUs of a compute capability, as in (9, 0), to PTX.
///
/// # Errors
/// NVRTC cannot be found, does not know the capability, or rejects the source.
pub fn compile_kernels((major, minor): (i32, i32)) -> Result<Ptx> {
    open_compiler()?;
    let options = CompileOptions {
        options: vec![format!("--gpu-architecture=compute_{major}{minor}")],
        name: Some("kernels.cu".into()),
        ..CompileOptions::default()
    };
    nvrtc::compile_ptx_with_opts(KERNEL_SOURCE, options).map_err(|error| match error {
        CompileError::CompileError { log, nvrtc, .. } => {
            let log = log.to_string_lossy().into_owned();
            anyhow::anyhow!("{}", log.lines().next().map_or(format!("{nvrtc:?}"), str::to_string))
        }
        other => anyhow::anyhow!("{other}"),
    })
}

/// Opens NVRTC, and the second library of it that it would look for by name without knowing that
/// it lies beside it.
fn open_compiler() -> Result<()> {
    static BUILTINS: OnceLock<Option<Library>> = OnceLock::new();
    // SAFETY: opening these libraries runs their initialisers, which want nothing of the process.
    ensure!(unsafe { nvrtc::sys::is_culib_present() }, "NVIDIA's compiler libnvrtc.so is missing");
    BUILTINS.get_or_init(|| {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two numbers to write, and see above.
        unsafe {
            nvrtc::sys::nvrtcVersion(&mut major, &mut minor).result().ok()?;
            // Where it is not found, NVRTC says so itself.
            Library::new(format!("libnvrtc-builtins.so.{major}.{minor}")).ok()
        }
    });
    Ok(())
}

/// A LayerNorm's numbers: over rows of D, `(x - mean) / sqrt(variance + eps) * weight + bias`.
pub struct RowNorm<'a> {
    /// `[D]`, of the residual's kind.
    pub weight: &'a Tensor,
    /// `[D]`, of the residual's kind.
    pub bias: &'a Tensor,
    pub eps: f64,
}

/// Rows of numbers in e4m3 with a scale each: `values · scales` are nearly the numbers.
pub struct RoundedRows {
    /// `[M, K]` e4m3.
    pub values: Tensor,
    /// `[M, 1]` float32.
    pub scales: Tensor,
}

/// What is computed of numbers before they are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeforeRounding {
    Nothing,
    /// GELU, by the error function.
    Gelu,
}

/// The kernels, loaded into one GPU until the process ends.
pub struct TeacherKernels {
    device: Device,
    context: sys::CUcontext,
    /// To bf16, for a residual in float32 and in bf16.
    normalise: [sys::CUfunction; 2],
    /// The same to e4m3.
    normalise_and_round: [sys::CUfunction; 2],
    round: sys::CUfunction,
    gelu_and_round: sys::CUfunction,
}

impl TeacherKernels {
    /// Compiles and loads the kernels for `device`.
    ///
    /// # Errors
    /// It is no GPU, or NVRTC or the driver cannot be found or fails.
    pub fn load(device: Device) -> Result<Self> {
        ensure!(device.is_cuda(), "they need a GPU");
        let gpu = Gpu::of(device)?;
        let image = compile_kernels(gpu.capability)?;
        let image =
            CString::new(image.to_src()).context("the compiled kernels contain a zero byte")?;
        // SAFETY: opening the library runs its initialisers; libtorch has done so before.
        ensure!(unsafe { sys::is_culib_present() }, "NVIDIA's driver libcuda.so is missing");
        driver::init()?;
        let ordinal = i32::try_from(cuda_index(device)?)?;
        // SAFETY: the device was just found. Its primary context is the one that libtorch works in;
        // it is never released, so it and what is loaded into it stay until the process ends. The
        // image is PTX that ends with a zero, and the names are those of kernels.cu.
        unsafe {
            let context = driver::primary_ctx::retain(driver::device::get(ordinal)?)?;
            let _current = CurrentContext::enter(context)?;
            let module = driver::module::load_data(image.as_ptr().cast())?;
            let function = |name: &str| -> Result<_> {
                Ok(driver::module::get_function(module, CString::new(name)?)?)
            };
            Ok(Self {
                device,
                context,
                normalise: [function("add_layer_norm_float32")?, function("add_layer_norm_bf16")?],
                normalise_and_round: [
                    function("add_layer_norm_float32_e4m3")?,
                    function("add_layer_norm_bf16_e4m3")?,
                ],
                round: function("round_e4m3")?,
                gelu_and_round: function("gelu_e4m3")?,
            })
        }
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
        let output = Tensor::empty(residual.size(), (Kind::BFloat16, self.device));
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
        let rows = self.empty_rows(residual)?;
        let to = (&rows.values, Some(&rows.scales));
        self.normalise(self.normalise_and_round, residual, branch, norm, to)?;
        Ok(rows)
    }

    fn normalise(
        &self,
        functions: [sys::CUfunction; 2],
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
        self.require(residual, &shape, residual.kind())?;
        self.require(norm.weight, &[dim], residual.kind())?;
        self.require(norm.bias, &[dim], residual.kind())?;
        if let Some(branch) = branch {
            self.require(branch, &shape, Kind::BFloat16)?;
        }
        let tensors =
            [Some(residual), branch, Some(norm.weight), Some(norm.bias), Some(output), scales];
        let grid = (residual.numel() / dim as usize, threads_of_row(dim as usize));
        // SAFETY: checked just now: all tensors are on this GPU, without gaps, and as large as so many rows
        // of `dim` numbers of their kinds, which is what these kernels read and write.
        unsafe { self.launch(function, grid, &tensors, dim as u32, Some(norm.eps as f32)) }
    }

    /// Each row of `numbers` `[..., D]` bf16, or of what is computed of it, in e4m3. For D see
    /// [`rounding_fits`].
    ///
    /// # Errors
    /// A tensor of another kind or device, or that is not contiguous; or the driver fails.
    pub fn rounded(&self, numbers: &Tensor, before: BeforeRounding) -> Result<RoundedRows> {
        let rows = self.empty_rows(numbers)?;
        let (count, dim) = rows.values.size2()?;
        ensure!(rounding_fits(dim as usize), "rows of {dim} numbers do not fit the kernel");
        self.require(numbers, &numbers.size(), Kind::BFloat16)?;
        let function = match before {
            BeforeRounding::Nothing => self.round,
            BeforeRounding::Gelu => self.gelu_and_round,
        };
        let tensors = [Some(numbers), Some(&rows.values), Some(&rows.scales)];
        let grid = (count as usize, threads_that_round(dim as usize));
        // SAFETY: as in `normalise`.
        unsafe { self.launch(function, grid, &tensors, dim as u32, None)? };
        Ok(rows)
    }

    /// Memory for as many rows as `[..., D]` has.
    fn empty_rows(&self, like: &Tensor) -> Result<RoundedRows> {
        let dim = *like.size().last().context("rows are [..., D]")?;
        ensure!(dim > 0, "rows without numbers");
        let count = like.numel() as i64 / dim;
        Ok(RoundedRows {
            values: Tensor::f_empty([count, dim], (Kind::Float8e4m3fn, self.device))?,
            scales: Tensor::f_empty([count, 1], (Kind::Float, self.device))?,
        })
    }

    /// That the kernel may take the tensor's memory as `shape` numbers of this kind.
    fn require(&self, tensor: &Tensor, shape: &[i64], kind: Kind) -> Result<()> {
        let found = (tensor.size(), tensor.kind(), tensor.device());
        ensure!(
            (found.0.as_slice(), found.1, found.2) == (shape, kind, self.device),
            "found a tensor of {found:?}, expected {:?}",
            (shape, kind, self.device)
        );
        ensure!(tensor.is_contiguous(), "a tensor that is not contiguous");
        // Loads take 16 bytes.
        ensure!(
            (tensor.data_ptr() as usize).is_multiple_of(16),
            "a tensor that is not aligned to 16 bytes"
        );
        Ok(())
    }

    /// Launches a kernel of so many blocks and threads that takes these tensors' addresses, the width of a row
    /// and, if there is one, an epsilon.
    ///
    /// # Safety
    /// These are the arguments that the kernel declares, and the memory that it reads and writes is there.
    unsafe fn launch(
        &self,
        function: sys::CUfunction,
        (rows, threads): (usize, usize),
        tensors: &[Option<&Tensor>],
        mut dim: u32,
        mut eps: Option<f32>,
    ) -> Result<()> {
        if rows == 0 {
            return Ok(());
        }
        let address = |tensor: &Option<&Tensor>| {
            tensor.map_or(std::ptr::null_mut(), |tensor| tensor.data_ptr())
        };
        let mut addresses: Vec<_> = tensors.iter().map(address).collect();
        let mut arguments: Vec<*mut c_void> =
            addresses.iter_mut().map(|one| std::ptr::from_mut(one).cast()).collect();
        arguments.push(std::ptr::from_mut(&mut dim).cast());
        arguments.extend(eps.as_mut().map(|eps| std::ptr::from_mut(eps).cast::<c_void>()));
        let (blocks, threads) = (u32::try_from(rows)?, threads as u32);
        let mut stream: Handle = std::ptr::null_mut();
        // SAFETY: `stream` is written on success. The arguments point to values of the types that the
        // kernel declares, and are copied before the launch returns. libtorch's allocator gives memory to
        // later work of this same stream only, so tensors may be dropped before.
        unsafe {
            check(distill_current_stream(cuda_index(self.device)?, &mut stream))?;
            let _current = CurrentContext::enter(self.context)?;
            driver::launch_kernel(
                function,
                (blocks, 1, 1),
                (threads, 1, 1),
                0,
                stream.cast(),
                &mut arguments,
            )?;
        }
        Ok(())
    }
}

/// A context that this thread works in for a while; then it is the former one again, which libtorch
/// takes its current device from.
struct CurrentContext;

impl CurrentContext {
    /// # Safety
    /// A live context.
    unsafe fn enter(context: sys::CUcontext) -> Result<Self> {
        // SAFETY: as the caller promises.
        unsafe { sys::cuCtxPushCurrent_v2(context) }.result()?;
        Ok(Self)
    }
}

impl Drop for CurrentContext {
    fn drop(&mut self) {
        let mut context = std::ptr::null_mut();
        // SAFETY: takes off what `enter` put on. It only fails where there is nothing to take off.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut context) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_whole_warps() {
        assert_eq!([8, 256, 264, 3072, 8192].map(threads_of_row), [32, 32, 64, 384, 1024]);
        assert_eq!(
            [8, 512, 520, 3072, 12_288, 16_384].map(threads_that_round),
            [32, 32, 64, 192, 768, 1024]
        );
        assert_eq!([0, 12_284, 16_384, 16_392].map(rounding_fits), [false, false, true, false]);
        assert_eq!(
            [0, 4, 8, 3072, 8192, 8200].map(kernels_fit),
            [false, false, true, true, true, false]
        );
    }

    #[test]
    fn a_cpu_has_no_kernels() {
        let error = TeacherKernels::load(Device::Cpu).err().unwrap();
        assert_eq!(error.to_string(), "they need a GPU");
    }
}
