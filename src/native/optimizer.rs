//! Fused AdamW and operations over a whole list of gradients, in one call each.

use std::ffi::c_char;

use anyhow::Result;
use tch::Tensor;

use super::shim::{Handle, check, handle, handles};

unsafe extern "C" {
    fn distill_fused_adamw(
        parameters: *const Handle,
        gradients: *const Handle,
        first_moments: *const Handle,
        second_moments: *const Handle,
        count: usize,
        step: Handle,
        skip: Handle,
        learning_rate: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
    ) -> *mut c_char;
    fn distill_gradient_norm(
        gradients: *const Handle,
        count: usize,
        norm: *mut Handle,
    ) -> *mut c_char;
    fn distill_scale_gradients(
        gradients: *const Handle,
        count: usize,
        factor: Handle,
    ) -> *mut c_char;
    fn distill_zero_gradients(parameters: *const Handle, count: usize) -> *mut c_char;
    fn distill_clear_gradients(parameters: *const Handle, count: usize) -> *mut c_char;
}

/// The numbers of one AdamW update.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    pub learning_rate: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
}

/// Updates `parameters` in place: decoupled weight decay, then Adam (Loshchilov & Hutter, 2019).
///
/// `step` is a float32 scalar on the same device holding the number of this update, from 1. Where
/// `skip`, another one, is 1, nothing changes: the device decides, and the host need not ask it.
pub fn fused_adamw(
    parameters: &[Tensor],
    gradients: &[Tensor],
    first_moments: &[Tensor],
    second_moments: &[Tensor],
    step: &Tensor,
    skip: &Tensor,
    numbers: AdamWStep,
) -> Result<()> {
    let count = parameters.len();
    let lists = [gradients, first_moments, second_moments];
    anyhow::ensure!(lists.iter().all(|list| list.len() == count), "AdamW lists differ in length");
    // SAFETY: four lists of `count` live tensors; the shim only borrows them during the call.
    check(unsafe {
        distill_fused_adamw(
            handles(parameters).as_ptr(),
            handles(gradients).as_ptr(),
            handles(first_moments).as_ptr(),
            handles(second_moments).as_ptr(),
            count,
            handle(step),
            handle(skip),
            numbers.learning_rate,
            numbers.betas[0],
            numbers.betas[1],
            numbers.weight_decay,
            numbers.eps,
        )
    })
}

/// The Euclidean norm of all gradients taken together, a scalar on their device.
pub fn gradient_norm(gradients: &[Tensor]) -> Result<Tensor> {
    let mut norm: Handle = std::ptr::null_mut();
    // SAFETY: a list of live tensors, borrowed during the call; `norm` is written on success.
    check(unsafe {
        distill_gradient_norm(handles(gradients).as_ptr(), gradients.len(), &mut norm)
    })?;
    // SAFETY: on success `norm` is a new `at::Tensor` whose ownership passes to us.
    Ok(unsafe { Tensor::from_ptr(norm.cast()) })
}

/// Multiplies every gradient in place by the scalar `factor`.
pub fn scale_gradients(gradients: &[Tensor], factor: &Tensor) -> Result<()> {
    // SAFETY: live tensors, borrowed during the call.
    check(unsafe {
        distill_scale_gradients(handles(gradients).as_ptr(), gradients.len(), handle(factor))
    })
}

/// Sets the gradients of `parameters` to zero, in the memory that they have.
pub fn zero_gradients(parameters: &[Tensor]) -> Result<()> {
    // SAFETY: live tensors, borrowed during the call.
    check(unsafe { distill_zero_gradients(handles(parameters).as_ptr(), parameters.len()) })
}

/// Forgets the gradients of `parameters`, so that the next backward pass writes, not adds.
pub fn clear_gradients(parameters: &[Tensor]) -> Result<()> {
    // SAFETY: live tensors, borrowed during the call.
    check(unsafe { distill_clear_gradients(handles(parameters).as_ptr(), parameters.len()) })
}
