//! The device under test: the CPU, unless `DISTILL_TEST_DEVICE` says `cuda`, as `scripts/gpu_check` does.

use tch::Device;

/// The device under test.
pub fn device() -> Device {
    match std::env::var("DISTILL_TEST_DEVICE").as_deref() {
        Ok("cuda") => Device::Cuda(0),
        Ok("cpu") | Err(_) => Device::Cpu,
        Ok(other) => panic!("DISTILL_TEST_DEVICE is `{other}`, expected cpu or cuda"),
    }
}
