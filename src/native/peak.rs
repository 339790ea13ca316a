//! What GPUs can do at best, by their maker's data sheets.

use serde::Serialize;
use tch::Device;

use super::device::Gpu;

/// The peak of a GPU in dense bf16 products.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Peak {
    pub name: &'static str,
    pub flops_per_s: f64,
}

/// The first all of whose words are in a GPU's name is taken for it.
pub const PEAKS: [Peak; 6] = [
    Peak { name: "H100-PCIe", flops_per_s: 756e12 },
    Peak { name: "H100", flops_per_s: 989e12 },
    Peak { name: "H200", flops_per_s: 989e12 },
    Peak { name: "A100", flops_per_s: 312e12 },
    Peak { name: "B200", flops_per_s: 2250e12 },
    Peak { name: "L40S", flops_per_s: 362e12 },
];

impl Peak {
    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        PEAKS.into_iter().find(|peak| name == peak.name)
    }

    /// That of `device`, where it is a GPU that is known.
    pub fn of(device: Device) -> Option<Self> {
        Self::of_gpu(&Gpu::of(device).ok()?.name)
    }

    fn of_gpu(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        let fits =
            |peak: &Peak| peak.name.to_lowercase().split('-').all(|word| name.contains(word));
        PEAKS.into_iter().find(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_known_by_their_names() {
        let name = |gpu| Peak::of_gpu(gpu).map(|peak| peak.name);
        assert_eq!(name("NVIDIA H100 80GB HBM3"), Some("H100"));
        assert_eq!(name("NVIDIA H100 PCIe"), Some("H100-PCIe"));
        assert_eq!(name("NVIDIA A100-SXM4-80GB"), Some("A100"));
        assert_eq!(name("NVIDIA GeForce GTX 1080"), None);
        assert_eq!(Peak::of(Device::Cpu), None);
    }
}
