//! Backward passes that begin in the middle of a model, or are called by name.

use std::ffi::c_char;

use anyhow::Result;
use tch::Tensor;

use super::shim::{Handle, check, handle};

unsafe extern "C" {
    fn distill_backward_from(output: Handle, gradient: Handle) -> *mut c_char;
    fn distill_layer_norm_backward(
        gradient: Handle,
        input: Handle,
        mean: Handle,
        inverse_deviation: Handle,
        weight: Handle,
        bias: Handle,
        results: *mut Handle,
    ) -> *mut c_char;
}

/// Adds to every parameter that `output` depends on its gradient, given that of `output`, of the
/// same shape. Frees what the pass had saved.
pub fn backward_from(output: &Tensor, gradient: &Tensor) -> Result<()> {
    // SAFETY: live tensors, borrowed during the call.
    check(unsafe { distill_backward_from(handle(output), handle(gradient)) })
}

/// Gradients of input, weight and bias of a LayerNorm over the last dimension, given the `gradient` of its output:
/// all of one kind. `mean` and `inverse_deviation` `[..., 1]` float32 are what libtorch's `native_layer_norm` gave.
///
/// # Errors
/// Shapes or kinds do not fit.
pub fn layer_norm_backward(
    gradient: &Tensor,
    input: &Tensor,
    [mean, inverse_deviation]: [&Tensor; 2],
    [weight, bias]: [&Tensor; 2],
) -> Result<[Tensor; 3]> {
    let mut results: [Handle; 3] = [std::ptr::null_mut(); 3];
    let of = |tensor| handle(tensor);
    // SAFETY: live tensors, borrowed during the call; on success there are three new ones of ours.
    unsafe {
        check(distill_layer_norm_backward(
            of(gradient),
            of(input),
            of(mean),
            of(inverse_deviation),
            of(weight),
            of(bias),
            results.as_mut_ptr(),
        ))?;
        Ok(results.map(|result| Tensor::from_ptr(result.cast())))
    }
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
