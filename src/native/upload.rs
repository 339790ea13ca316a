//! Bytes on their way to the training device.

use std::ffi::c_char;

use anyhow::{Result, ensure};
use tch::{Device, Tensor};

use super::shim::{Handle, check};

unsafe extern "C" {
    fn distill_upload(
        bytes: *const u8,
        shape: *const i64,
        dimensions: usize,
        cuda: i64,
        tensor: *mut Handle,
    ) -> *mut c_char;
}

/// A uint8 tensor of `shape` on `device`. Towards a GPU the bytes go through pinned memory and the
/// copy runs by itself; `bytes` may be overwritten at once.
///
/// # Errors
/// The bytes do not fill the shape, the device has no memory left, or it is neither CPU nor CUDA.
pub fn upload(bytes: &[u8], shape: &[i64], device: Device) -> Result<Tensor> {
    let expected = shape.iter().product::<i64>();
    ensure!(bytes.len() as i64 == expected, "{} bytes for a shape of {shape:?}", bytes.len());
    let cuda = match device {
        Device::Cpu => -1,
        Device::Cuda(number) => number as i64,
        other => anyhow::bail!("{other:?} is not a device to train on"),
    };
    let mut tensor: Handle = std::ptr::null_mut();
    // SAFETY: both slices outlive the call, and the shim copies as many bytes as the shape has,
    // which was checked; it writes a new tensor to `tensor`, or returns a message.
    unsafe {
        check(distill_upload(bytes.as_ptr(), shape.as_ptr(), shape.len(), cuda, &mut tensor))?;
        Ok(Tensor::from_ptr(tensor.cast()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_in_their_shape() {
        let mut bytes: Vec<u8> = (0..24).collect();
        let tensor = upload(&bytes, &[2, 3, 4], Device::Cpu).unwrap();
        bytes.fill(0);
        assert_eq!((tensor.size(), tensor.kind()), (vec![2, 3, 4], tch::Kind::Uint8));
        assert_eq!(
            Vec::<u8>::try_from(tensor.flatten(0, -1)).unwrap(),
            (0..24).collect::<Vec<_>>()
        );
        assert!(upload(&bytes, &[5, 5], Device::Cpu).is_err());
    }
}
