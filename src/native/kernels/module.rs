//! Compiled kernels in a GPU, and their launch.

use std::ffi::{CString, c_char, c_void};

use anyhow::{Context, Result, ensure};
use cudarc::driver::{result as driver, sys};
use tch::{Device, Kind, Tensor};

use super::compile::{KernelSource, compile_kernels};
use super::rows::{HELD, RoundedRows, rounding_fits, threads_that_round};
use crate::native::device::{Gpu, cuda_index};
use crate::native::shim::{Handle, check};

unsafe extern "C" {
    fn distill_current_stream(cuda: i64, stream: *mut Handle) -> *mut c_char;
}

/// Threads of a block of `gelu`.
const GELU_THREADS: usize = 256;

/// The kernels of a file, loaded into one GPU until the process ends.
pub(super) struct Module {
    device: Device,
    context: sys::CUcontext,
    module: sys::CUmodule,
}

// SAFETY: handles of the driver, which takes them from any thread, and nothing here changes.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// A kernel of a [`Module`].
#[derive(Clone, Copy)]
pub(super) struct Function(sys::CUfunction);

// SAFETY: as for `Module`.
unsafe impl Send for Function {}
// SAFETY: as for `Module`.
unsafe impl Sync for Function {}

/// What a kernel is given.
pub(super) enum Argument<'a> {
    /// The address of a tensor's numbers, or null.
    Numbers(Option<&'a Tensor>),
    Count(u32),
    Real(f32),
}

impl Module {
    /// Compiles and loads kernels for `device`.
    ///
    /// # Errors
    /// It is no GPU, or NVRTC or the driver cannot be found or fails.
    pub(super) fn load(source: KernelSource, device: Device) -> Result<Self> {
        ensure!(device.is_cuda(), "they need a GPU");
        let gpu = Gpu::of(device)?;
        let image = compile_kernels(source, gpu.capability)?;
        let image =
            CString::new(image.to_src()).context("the compiled kernels contain a zero byte")?;
        // SAFETY: opening the library runs its initialisers; libtorch has done so before.
        ensure!(unsafe { sys::is_culib_present() }, "NVIDIA's driver libcuda.so is missing");
        driver::init()?;
        let ordinal = i32::try_from(cuda_index(device)?)?;
        // SAFETY: the device was just found. Its primary context is the one that libtorch works in;
        // it is never released, so it and what is loaded into it stay until the process ends. The
        // image is PTX that ends with a zero.
        unsafe {
            let context = driver::primary_ctx::retain(driver::device::get(ordinal)?)?;
            let _current = CurrentContext::enter(context)?;
            let module = driver::module::load_data(image.as_ptr().cast())?;
            Ok(Self { device, context, module })
        }
    }

    pub(super) fn device(&self) -> Device {
        self.device
    }

    /// The kernel of this name.
    ///
    /// # Errors
    /// The file has none.
    pub(super) fn function(&self, name: &str) -> Result<Function> {
        // SAFETY: the module stays loaded, in this context.
        unsafe {
            let _current = CurrentContext::enter(self.context)?;
            Ok(Function(driver::module::get_function(self.module, CString::new(name)?)?))
        }
    }

    /// That a kernel may take the tensor's memory as `shape` numbers of this kind.
    ///
    /// # Errors
    /// It is of another shape, kind or device, has gaps, or does not begin at a multiple of 16 bytes, which is
    /// what loads take.
    pub(super) fn require(&self, tensor: &Tensor, shape: &[i64], kind: Kind) -> Result<()> {
        let found = (tensor.size(), tensor.kind(), tensor.device());
        ensure!(
            (found.0.as_slice(), found.1, found.2) == (shape, kind, self.device),
            "found a tensor of {found:?}, expected {:?}",
            (shape, kind, self.device)
        );
        ensure!(tensor.is_contiguous(), "a tensor that is not contiguous");
        ensure!(
            (tensor.data_ptr() as usize).is_multiple_of(16),
            "a tensor that is not aligned to 16 bytes"
        );
        Ok(())
    }

    /// Launches a kernel of so many blocks (in x and y) and threads.
    ///
    /// # Safety
    /// These are the arguments that the kernel declares, and the memory that it reads and writes is there.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) unsafe fn launch(
        &self,
        function: Function,
        (blocks, threads): ([usize; 2], usize),
        arguments: &[Argument],
    ) -> Result<()> {
        if blocks.contains(&0) {
            return Ok(());
        }
        // Of eight bytes each, of which a kernel that declares fewer reads the first.
        let mut values: Vec<u64> = arguments.iter().map(Argument::bits).collect();
        let mut addresses: Vec<*mut c_void> =
            values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        let blocks = (u32::try_from(blocks[0])?, u32::try_from(blocks[1])?, 1);
        let mut stream: Handle = std::ptr::null_mut();
        // SAFETY: `stream` is written on success. The addresses are of values that are at least as large as the
        // kernel declares, and are copied before the launch returns. libtorch's allocator gives memory to
        // later work of this same stream only, so tensors may be dropped before.
        unsafe {
            check(distill_current_stream(cuda_index(self.device)?, &mut stream))?;
            let _current = CurrentContext::enter(self.context)?;
            let threads = (threads as u32, 1, 1);
            driver::launch_kernel(function.0, blocks, threads, 0, stream.cast(), &mut addresses)?;
        }
        Ok(())
    }
}

/// Launches `gelu`, which both files have, of `input` to `output`, which may be the same.
///
/// # Errors
/// They are not bf16 of this GPU, without gaps and of one shape, or their count is no multiple of 8; or the driver
/// fails.
pub(super) fn launch_gelu(
    module: &Module,
    gelu: Function,
    input: &Tensor,
    output: &Tensor,
) -> Result<()> {
    for tensor in [input, output] {
        module.require(tensor, &input.size(), Kind::BFloat16)?;
    }
    let vectors = input.numel() / HELD;
    ensure!(vectors * HELD == input.numel(), "{} numbers do not fit the kernel", input.numel());
    let arguments = [
        Argument::Numbers(Some(input)),
        Argument::Numbers(Some(output)),
        Argument::Count(u32::try_from(vectors)?),
    ];
    let grid = ([vectors.div_ceil(GELU_THREADS), 1], GELU_THREADS);
    // SAFETY: as many numbers of this kind are in both.
    unsafe { module.launch(gelu, grid, &arguments) }
}

/// Memory for as many rows in e4m3 as `[..., D]` has.
///
/// # Errors
/// There are no numbers in a row, or no memory.
pub(super) fn empty_rows(module: &Module, like: &Tensor) -> Result<RoundedRows> {
    let dim = *like.size().last().context("rows are [..., D]")?;
    ensure!(dim > 0, "rows without numbers");
    let count = like.numel() as i64 / dim;
    Ok(RoundedRows {
        values: Tensor::f_empty([count, dim], (Kind::Float8e4m3fn, module.device))?,
        scales: Tensor::f_empty([count, 1], (Kind::Float, module.device))?,
    })
}

/// Launches a kernel that rounds each row of `numbers` `[..., D]` bf16, or of what it computes of them, to e4m3; one that
/// also writes what it computes takes `plain` for that, of the same shape and kind.
///
/// # Errors
/// A tensor of another kind or device, gaps, or a width that does not fit ([`rounding_fits`]); or the driver fails.
pub(super) fn launch_rounding(
    module: &Module,
    function: Function,
    numbers: &Tensor,
    plain: Option<&Tensor>,
) -> Result<RoundedRows> {
    let rows = empty_rows(module, numbers)?;
    let (count, dim) = rows.values.size2()?;
    ensure!(rounding_fits(dim as usize), "rows of {dim} numbers do not fit the kernel");
    let given = [Some(numbers), plain].into_iter().flatten();
    for tensor in given.clone() {
        module.require(tensor, &numbers.size(), Kind::BFloat16)?;
    }
    let tensors = given.chain([&rows.values, &rows.scales]);
    let mut arguments: Vec<_> = tensors.map(|tensor| Argument::Numbers(Some(tensor))).collect();
    arguments.push(Argument::Count(dim as u32));
    let grid = ([count as usize, 1], threads_that_round(dim as usize));
    // SAFETY: checked just now: as many rows of this width are in all of them.
    unsafe { module.launch(function, grid, &arguments)? };
    Ok(rows)
}

impl Argument<'_> {
    fn bits(&self) -> u64 {
        match *self {
            Self::Numbers(tensor) => tensor.map_or(0, |tensor| tensor.data_ptr() as u64),
            Self::Count(count) => u64::from(count),
            Self::Real(real) => u64::from(real.to_bits()),
        }
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
