//! What every call into the C++ shim shares.

use std::ffi::{CStr, c_char, c_void};

use anyhow::{Result, anyhow};
use tch::Tensor;

/// A tensor's address in libtorch.
pub type Handle = *mut c_void;

unsafe extern "C" {
    fn distill_free_message(message: *mut c_char);
}

/// Turns the shim's message into an error.
pub fn check(message: *mut c_char) -> Result<()> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns null or a NUL-terminated string from strdup that is ours to free.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        distill_free_message(message);
        text
    };
    Err(anyhow!(super::guard::first_line(&text)))
}

/// Frees bytes that the shim allocated.
///
/// # Safety
/// `bytes` is null or from the shim's malloc, and not used afterwards.
pub unsafe fn free_message(bytes: *mut c_char) {
    // SAFETY: as the caller promises.
    unsafe { distill_free_message(bytes) }
}

/// The address of `tensor`, as the shim takes it.
pub fn handle(tensor: &Tensor) -> Handle {
    tensor.as_ptr().cast_mut().cast()
}

/// The addresses of `tensors`, as the shim takes lists.
pub fn handles(tensors: &[Tensor]) -> Vec<Handle> {
    tensors.iter().map(handle).collect()
}
