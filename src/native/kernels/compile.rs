//! Kernels from CUDA C++ to PTX.

use std::sync::OnceLock;

use anyhow::{Result, ensure};
use cudarc::nvrtc::{self, CompileError, CompileOptions, Ptx};
use libloading::Library;

/// A file of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelSource {
    /// For encoders that stay as they are.
    Frozen,
    /// For blocks that are trained.
    Training,
}

impl KernelSource {
    /// The file's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Frozen => "frozen.cu",
            Self::Training => "training.cu",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Frozen => concat!(include_str!("rows.cuh"), include_str!("frozen.cu")),
            Self::Training => concat!(include_str!("rows.cuh"), include_str!("training.cu")),
        }
    }
}

/// Compiles kernels for GPUs of a compute capability, as in (9, 0), to PTX.
///
/// # Errors
/// NVRTC cannot be found, does not know the capability, or rejects the source.
pub fn compile_kernels(source: KernelSource, (major, minor): (i32, i32)) -> Result<Ptx> {
    open_compiler()?;
    let options = CompileOptions {
        options: vec![format!("--gpu-architecture=compute_{major}{minor}")],
        name: Some(source.name().into()),
        ..CompileOptions::default()
    };
    nvrtc::compile_ptx_with_opts(source.text(), options).map_err(|error| match error {
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
