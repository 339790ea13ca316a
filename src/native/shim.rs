//! What every call into the C++ shim shares.

use std::ffi::{CStr, c_char, c_void};

use anyhow::{Result, anyhow};

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
