//! What this program's libtorch and the driver are, for people.

use std::ffi::{CStr, c_char};

use anyhow::{Context, Result, ensure};
use cudarc::driver::{result as driver, sys};

use super::shim::check;

unsafe extern "C" {
    fn distill_cuda_version(version: *mut i64) -> *mut c_char;
    fn distill_nccl_version(version: *mut i64) -> *mut c_char;
    fn distill_cpu_capability(name: *mut c_char, length: usize) -> *mut c_char;
}

/// The version of CUDA that libtorch was built with, as in `13.0`; none for a libtorch without CUDA.
///
/// # Errors
/// libtorch's half for GPUs is there and does not load.
pub fn cuda_version() -> Result<Option<String>> {
    let mut version = 0;
    // SAFETY: a number to write.
    check(unsafe { distill_cuda_version(&mut version) })?;
    Ok((version > 0).then(|| cuda_words(version)))
}

/// `13.0` of 13000.
fn cuda_words(version: i64) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// The version of NCCL that carries collectives between GPUs, as in `2.28.9`; none where this build has none.
///
/// # Errors
/// NCCL does not tell.
pub fn nccl_version() -> Result<Option<String>> {
    let mut version = 0;
    // SAFETY: a number to write.
    check(unsafe { distill_nccl_version(&mut version) })?;
    let words = format!("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
    Ok((version > 0).then_some(words))
}

/// The instruction set whose kernels libtorch takes on this CPU, as in `AVX2`.
///
/// # Errors
/// libtorch's message.
pub fn cpu_capability() -> Result<String> {
    let mut name = [0 as c_char; 64];
    // SAFETY: the shim writes at most the buffer's length, its final zero included.
    unsafe {
        check(distill_cpu_capability(name.as_mut_ptr(), name.len()))?;
        Ok(CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned())
    }
}

/// NVIDIA's driver, as it speaks for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// The newest version of CUDA that it knows, as in `13.0`.
    pub cuda: String,
    /// GPUs that this process may use.
    pub gpus: usize,
}

impl Driver {
    /// Asks the driver; none where there is none.
    ///
    /// # Errors
    /// The driver is there and does not start: its own message.
    pub fn find() -> Result<Option<Self>> {
        // SAFETY: opening the library runs its initialisers, which want nothing of the process.
        if !unsafe { sys::is_culib_present() } {
            return Ok(None);
        }
        let mut version = 0;
        // SAFETY: a number to write; the call needs no initialised driver.
        let asked = unsafe { sys::cuDriverGetVersion(&mut version) };
        ensure!(asked == sys::CUresult::CUDA_SUCCESS, "it does not tell its version: {asked:?}");
        driver::init().context("it does not start")?;
        let gpus = driver::device::get_count().context("it does not count GPUs")?;
        Ok(Some(Self { cuda: cuda_words(version.into()), gpus: gpus.max(0) as usize }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_their_makers_write_them() {
        assert_eq!([13000, 12080].map(cuda_words), ["13.0", "12.8"]);
        assert!(!cpu_capability().unwrap().is_empty());
        // This libtorch came with CUDA, or without both.
        assert_eq!(cuda_version().unwrap().is_some(), nccl_version().unwrap().is_some());
    }
}
