//! The device that this process computes on.

use std::path::{Path, PathBuf};

use tch::{Cuda, Device};
use tracing::{info, warn};

use crate::config::{ConfigError, DataConfig, DeviceChoice, Precision, RunConfig};
use crate::data::{share_cores, worker_count};
use crate::dist::RankInfo;
use crate::native::{describe, libtorch_version};

/// The device of this process: on a node with several GPUs that of its local rank, unless its
/// launcher lets it see one only. Sets the number of CPU threads, too, and how many decoding workers there
/// are by default: all processes of a machine divide its cores.
pub fn choose(config: &RunConfig, rank_info: &RankInfo) -> Result<Device, ConfigError> {
    let threads = match config.threads {
        // What a launcher says of threads stands; alone, libtorch takes all cores.
        0 if rank_info.local_world_size == 1 || std::env::var_os("OMP_NUM_THREADS").is_some() => {
            None
        }
        0 => {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            Some((cores / rank_info.local_world_size).max(1))
        }
        threads => Some(threads),
    };
    if let Some(threads) = threads {
        tch::set_num_threads(threads as i32);
    }
    share_cores(rank_info.local_world_size);
    find("run.device", config.device, rank_info.local_rank)
}

/// Says what is computed on, and what of it may not be meant.
pub fn tell(config: &RunConfig, data: &DataConfig, device: Device) {
    info!(
        "computing on {} in {}, by libtorch {}; {} decoding workers",
        describe(device),
        config.precision.name(),
        libtorch_version(),
        worker_count(data)
    );
    if device != Device::Cpu {
        return;
    }
    let is_visible = std::env::var("CUDA_VISIBLE_DEVICES").is_ok_and(|value| {
        // What hides all GPUs on purpose.
        !value.trim().is_empty() && value.trim() != "-1"
    });
    if config.device == DeviceChoice::Auto && (is_visible || Path::new("/dev/nvidiactl").exists()) {
        warn!(
            "a GPU seems to be meant ({}), but libtorch can use none: check nvidia-smi and the driver, or \
             set run.device = \"cpu\"",
            if is_visible { "CUDA_VISIBLE_DEVICES is set" } else { "there is /dev/nvidiactl" }
        );
    }
    if config.precision == Precision::Bf16 {
        warn!("run.precision = \"bf16\" on a CPU is slower than \"fp32\" on most");
    }
}

/// The device that `key` chooses, for the process of this rank on its node.
pub fn find(key: &str, choice: DeviceChoice, local_rank: usize) -> Result<Device, ConfigError> {
    let wrong = |message: String| ConfigError { file: PathBuf::new(), key: key.into(), message };
    let gpus = if Cuda::is_available() { Cuda::device_count().max(0) as usize } else { 0 };
    match (choice, gpus) {
        (DeviceChoice::Cpu, _) | (DeviceChoice::Auto, 0) => Ok(Device::Cpu),
        (DeviceChoice::Cuda, 0) => Err(wrong(
            "found `cuda`, but libtorch sees no GPU here: check nvidia-smi, or use `cpu`".into(),
        )),
        (_, 1) => Ok(Device::Cuda(0)),
        (_, gpus) if local_rank < gpus => Ok(Device::Cuda(local_rank)),
        (_, gpus) => Err(wrong(format!(
            "local rank {local_rank} has no GPU: this node shows {gpus}; start at most as many processes"
        ))),
    }
}
