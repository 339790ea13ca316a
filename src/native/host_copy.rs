//! Copies to host memory beside what a device does otherwise.

use std::ffi::c_char;
use std::ptr;

use anyhow::{Result, ensure};
use tch::Tensor;

use super::shim::{Handle, check, handles};

unsafe extern "C" {
    fn distill_pinned(bytes: usize, tensor: *mut Handle) -> *mut c_char;
    fn distill_copy_to_host(from: *const Handle, to: *const Handle, count: usize) -> *mut c_char;
}

/// So many bytes of host memory that a GPU can write to by itself: `[bytes]` u8. It takes as long as the system
/// needs to find it, a tenth of a second for 256 MiB.
///
/// # Errors
/// There is no GPU, or not so much memory.
pub fn pinned_memory(bytes: usize) -> Result<Tensor> {
    let mut tensor = ptr::null_mut();
    // SAFETY: on success `tensor` is a new one of ours.
    unsafe {
        check(distill_pinned(bytes, &mut tensor))?;
        Ok(Tensor::from_ptr(tensor.cast()))
    }
}

/// Copies each of `from`, which lie on one device whose work on them has ended, to the one of `to` at its place,
/// which lie on the host. Other threads may read them meanwhile, and the device may do other work.
///
/// # Errors
/// Shapes or kinds differ, or the device fails.
pub fn copy_to_host(from: &[Tensor], to: &[Tensor]) -> Result<()> {
    let alike = |(from, to): (&Tensor, &Tensor)| {
        (from.size(), from.kind()) == (to.size(), to.kind()) && to.device() == tch::Device::Cpu
    };
    ensure!(
        from.len() == to.len() && from.iter().zip(to).all(alike),
        "tensors of other shapes or kinds"
    );
    let (sources, targets) = (handles(from), handles(to));
    // SAFETY: live tensors, as many of each.
    check(unsafe { distill_copy_to_host(sources.as_ptr(), targets.as_ptr(), sources.len()) })
}
