//! Backward passes that begin in the middle of a model.

use std::ffi::c_char;

use anyhow::Result;
use tch::Tensor;

use super::shim::{Handle, check, handle};

unsafe extern "C" {
    fn distill_backward_from(output: Handle, gradient: Handle) -> *mut c_char;
}

/// Adds to every parameter that `output` depends on its gradient, given that of `output`, of the
/// same shape. Frees what the pass had saved.
pub fn backward_from(output: &Tensor, gradient: &Tensor) -> Result<()> {
    // SAFETY: live tensors, borrowed during the call.
    check(unsafe { distill_backward_from(handle(output), handle(gradient)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_given_gradient_goes_back() {
        let leaf = Tensor::from_slice(&[1f32, 2., 3.]).set_requires_grad(true);
        let gradient = Tensor::from_slice(&[10f32, 20., 30.]);
        backward_from(&leaf.square(), &gradient).unwrap();
        assert_eq!(leaf.grad(), Tensor::from_slice(&[20f32, 80., 180.]));
        assert!(backward_from(&leaf.square(), &gradient.narrow(0, 0, 2)).is_err());
    }
}
