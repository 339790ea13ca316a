//! A matrix product with bias and GELU in one kernel, on the CPU.

use std::ffi::c_char;

use anyhow::Result;
use tch::Tensor;

use super::shim::{Handle, check, handle};

unsafe extern "C" {
    fn distill_linear_gelu(
        input: Handle,
        weight: Handle,
        bias: Handle,
        output: *mut Handle,
    ) -> *mut c_char;
}

/// GELU (by the error function) of `input` `[..., from]` times `weight` `[to, from]` transposed plus
/// `bias` `[to]`: `[..., to]`, without history. float32 or bf16, on the CPU, by oneDNN.
///
/// # Errors
/// Shapes do not fit, or libtorch has no oneDNN.
pub fn linear_gelu(input: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let mut output: Handle = std::ptr::null_mut();
    // SAFETY: live tensors, borrowed during the call; on success `output` is a new one of ours.
    unsafe {
        check(distill_linear_gelu(handle(input), handle(weight), handle(bias), &mut output))?;
        Ok(Tensor::from_ptr(output.cast()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn it_is_the_two_steps_in_one() {
        tch::manual_seed(3);
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let (input, weight, bias) = (random(&[3, 7, 24]), random(&[40, 24]), random(&[40]));
        let expected = input.linear(&weight, Some(&bias)).gelu("none");
        let found = linear_gelu(&input, &weight, &bias).unwrap();
        assert_eq!(found.size(), [3, 7, 40]);
        assert!((found - expected).abs().max().double_value(&[]) < 1e-5);
        assert!(linear_gelu(&input, &weight.transpose(0, 1), &bias).is_err());
    }
}
