//! The device under test: the CPU, unless `DISTILL_TEST_DEVICE` says `cuda`, as `scripts/gpu_check` does.

use std::path::PathBuf;
use std::time::Duration;

use tch::Device;

/// The device under test.
pub fn device() -> Device {
    match std::env::var("DISTILL_TEST_DEVICE").as_deref() {
        Ok("cuda") => Device::Cuda(0),
        Ok("cpu") | Err(_) => Device::Cpu,
        Ok(other) => panic!("DISTILL_TEST_DEVICE is `{other}`, expected cpu or cuda"),
    }
}

/// The same as configurations name it.
pub fn device_name() -> &'static str {
    if device() == Device::Cpu { "cpu" } else { "cuda" }
}

/// The program under test: cargo's, unless `DISTILL_TEST_PROGRAM` has another path, as on a machine that
/// it was not built on.
pub fn program() -> PathBuf {
    std::env::var_os("DISTILL_TEST_PROGRAM")
        .map_or_else(|| env!("CARGO_BIN_EXE_distill").into(), PathBuf::from)
}

/// `time` on a CPU. Processes on a GPU take longer to start, and several on one GPU take turns.
pub fn patience(time: Duration) -> Duration {
    if device() == Device::Cpu { time } else { time * 3 }
}
