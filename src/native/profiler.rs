//! libtorch's profiler (Kineto): what CPU and GPU do, as a trace that Perfetto and Chrome open.

use std::ffi::{CString, c_char};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use anyhow::{Context, Result};
use tch::Device;

use super::shim::{Handle, check};

unsafe extern "C" {
    fn distill_profiler_begin(gpu: bool) -> *mut c_char;
    fn distill_profiler_end(file: *const c_char) -> *mut c_char;
    fn distill_profiler_part_begin(name: *const c_char) -> Handle;
    fn distill_profiler_part_end(part: Handle);
}

/// A recording of what this thread does, of what autograd's threads do for it, and of a GPU's kernels. Dropped, it
/// ends without a trace.
pub struct Profiler {
    is_recording: bool,
    /// It ends on the thread that it began on.
    _thread: PhantomData<*const ()>,
}

impl Profiler {
    /// Begins to record; there can be one at a time.
    ///
    /// # Errors
    /// libtorch refuses, for example because another program profiles this GPU.
    pub fn begin(device: Device) -> Result<Self> {
        // SAFETY: takes a flag.
        check(unsafe { distill_profiler_begin(device.is_cuda()) })
            .context("libtorch's profiler does not begin")?;
        Ok(Self { is_recording: true, _thread: PhantomData })
    }

    /// Ends the recording and writes it as a Chrome trace, a JSON file. The device must have ended its work.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(mut self, file: &Path) -> Result<()> {
        self.is_recording = false;
        let path = CString::new(file.as_os_str().as_bytes()).context("a zero byte in a path")?;
        // SAFETY: the path lives through the call; one recording is under way, begun on this thread.
        check(unsafe { distill_profiler_end(path.as_ptr()) })?;
        // Kineto only logs that it could not.
        std::fs::metadata(file).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(())
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        if self.is_recording {
            // SAFETY: as in `write`.
            let _ = check(unsafe { distill_profiler_end(ptr::null()) });
        }
    }
}

/// A named part of what this thread does, in the recording that is under way, if one is.
pub struct ProfiledPart {
    part: Handle,
    _thread: PhantomData<*const ()>,
}

impl ProfiledPart {
    /// Begins a part, which ends when it is dropped.
    pub fn begin(name: &str) -> Self {
        // A name with a zero byte has none.
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: the name lives through the call, which copies it.
        Self { part: unsafe { distill_profiler_part_begin(name.as_ptr()) }, _thread: PhantomData }
    }
}

impl Drop for ProfiledPart {
    fn drop(&mut self) {
        // SAFETY: made by the shim on this thread, or null; freed once.
        unsafe { distill_profiler_part_end(self.part) }
    }
}
