//! Ending a process without the destructors of its libraries.

use std::ffi::c_int;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

unsafe extern "C" {
    fn distill_exit_now(code: c_int) -> !;
}

/// Whether destructors of libtorch could wait for other processes for ever.
static SKIP_DESTRUCTORS: AtomicBool = AtomicBool::new(false);

/// Marks that this process must end by [`exit_now`]: a collective with processes that are gone, or
/// that have given up, is still under way in it.
pub fn skip_destructors() {
    SKIP_DESTRUCTORS.store(true, Ordering::Relaxed);
}

/// Ends the process with `code` at once, without destructors, if [`skip_destructors`] was called.
pub fn exit_if_skipping_destructors(code: u8) {
    if SKIP_DESTRUCTORS.load(Ordering::Relaxed) {
        exit_now(code);
    }
}

/// Ends the process with `code` at once: no destructor runs and no other thread is waited for.
pub fn exit_now(code: u8) -> ! {
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().flush();
    // SAFETY: never returns, so nothing can be used after it.
    unsafe { distill_exit_now(code.into()) }
}
