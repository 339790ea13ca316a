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

/// Numbers of a row that a thread holds in its registers.
const HELD: usize = 8;
/// Most threads of a block on any GPU.
const MOST_THREADS: usize = 1024;
const WARP: usize = 32;

/// Whether the kernels can work on rows of `dim` numbers.
pub fn kernels_fit(dim: usize) -> bool {
    dim > 0 && dim.is_multiple_of(HELD) && dim <= HELD * MOST_THREADS
}

/// Threads that work on a row of `dim` numbers: whole warps.
pub fn threads_of_row(dim: usize) -> usize {
    (dim / HELD).next_multiple_of(WARP)
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

/// The kernels, loaded into one GPU until the process ends.
pub struct TeacherKernels {
    device: Device,
    context: sys::CUcontext,
    float32: sys::CUfunction,
    bf16: sys::CUfunction,
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
            let float32 = function("add_layer_norm_float32")?;
            let bf16 = function("add_layer_norm_bf16")?;
            Ok(Self { device, context, float32, bf16 })
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
        let shape = residual.size();
        let dim = *shape.last().context("rows are [..., D]")?;
        ensure!(kernels_fit(dim as usize), "rows of {dim} numbers do not fit the kernel");
        let function = match residual.kind() {
            Kind::Float => self.float32,
            Kind::BFloat16 => self.bf16,
            other => bail!("a residual stream in {other:?}"),
        };
        ensure!(!residual.requires_grad(), "a residual stream that needs a gradient");
        self.require(residual, &shape, residual.kind())?;
        self.require(norm.weight, &[dim], residual.kind())?;
        self.require(norm.bias, &[dim], residual.kind())?;
        if let Some(branch) = branch {
            self.require(branch, &shape, Kind::BFloat16)?;
        }
        let output = Tensor::empty(&shape, (Kind::BFloat16, self.device));
        let rows = u32::try_from(residual.numel() / dim as usize)?;
        if rows > 0 {
            // SAFETY: checked just now: all tensors are on this GPU, without gaps, and as large as
            // `rows` rows of `dim` numbers of their kinds, which is what the kernel reads and writes.
            unsafe { self.launch(function, rows, dim as u32, residual, branch, norm, &output)? };
        }
        Ok(output)
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

    /// # Safety
    /// The tensors are as [`Self::add_layer_norm`] checks them.
    #[expect(clippy::too_many_arguments, reason = "they are the kernel's")]
    unsafe fn launch(
        &self,
        function: sys::CUfunction,
        rows: u32,
        mut dim: u32,
        residual: &Tensor,
        branch: Option<&Tensor>,
        norm: &RowNorm,
        output: &Tensor,
    ) -> Result<()> {
        let mut eps = norm.eps as f32;
        let mut addresses = [
            residual.data_ptr(),
            branch.map_or(std::ptr::null_mut(), Tensor::data_ptr),
            norm.weight.data_ptr(),
            norm.bias.data_ptr(),
            output.data_ptr(),
        ];
        let [residual, branch, weight, bias, output] =
            addresses.each_mut().map(|address| std::ptr::from_mut(address).cast::<c_void>());
        let dim_at = std::ptr::from_mut(&mut dim).cast();
        let eps_at = std::ptr::from_mut(&mut eps).cast();
        let mut arguments = [residual, branch, weight, bias, output, dim_at, eps_at];
        let threads = threads_of_row(dim as usize) as u32;
        let mut stream: Handle = std::ptr::null_mut();
        // SAFETY: `stream` is written on success. The arguments point to values of the types that
        // both kernels declare, and are copied before the launch returns. libtorch's allocator
        // gives memory to later work of this same stream only, so tensors may be dropped before.
        unsafe {
            check(distill_current_stream(cuda_index(self.device)?, &mut stream))?;
            let _current = CurrentContext::enter(self.context)?;
            let blocks = (rows, 1, 1);
            driver::launch_kernel(
                function,
                blocks,
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
