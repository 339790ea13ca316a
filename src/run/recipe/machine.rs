//! The machine that a recipe is for.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use tch::{Cuda, Device, Kind, Tensor};

use crate::config::DeviceChoice;
use crate::native::{Gpu, available_memory, describe, guard};
use crate::run::device;
use crate::run::scaling;

/// What of it counts.
pub struct Machine {
    pub device: Device,
    /// Processes that train together: one for each GPU.
    pub processes: usize,
    /// Bytes that one process may fill.
    pub memory: f64,
    /// Operations a second of one process's training.
    pub flops: f64,
    /// In words.
    pub name: String,
}

/// Share of memory that a run plans with: of a GPU, the rest is what kernels need beside; of a machine, what others do.
const OF_GPU: f64 = 0.85;
const OF_MACHINE: f64 = 0.4;
/// Bytes that are taken where nothing tells the memory.
const ASSUMED: f64 = 4e9;

/// Rows and columns of the product that a CPU's rate is measured with, and how often.
const SIDE: i64 = 768;
const TIMES: usize = 6;
/// Share of a product's rate that whole steps reach on a CPU.
const OF_PRODUCTS: f64 = 0.5;

impl Machine {
    /// Looks at the device that is chosen.
    ///
    /// # Errors
    /// It is not there.
    pub fn look(choice: DeviceChoice) -> Result<Self> {
        let device = device::find("--device", choice, 0)?;
        let name = describe(device);
        if device == Device::Cpu {
            let memory = available_memory().map_or(ASSUMED, |bytes| bytes as f64 * OF_MACHINE);
            return Ok(Self { device, processes: 1, memory, flops: cpu_flops()?, name });
        }
        let memory = Gpu::of(device).map_or(ASSUMED, |gpu| gpu.memory as f64 * OF_GPU);
        let processes = Self::processes_of(choice)?;
        Ok(Self { device, processes, memory, flops: scaling::Gpu::MEASURED.flops, name })
    }

    /// See [`super::processes`].
    pub fn processes_of(choice: DeviceChoice) -> Result<usize> {
        let device = device::find("--device", choice, 0)?;
        Ok(if device == Device::Cpu { 1 } else { Cuda::device_count().max(1) as usize })
    }

    pub fn is_gpu(&self) -> bool {
        self.device != Device::Cpu
    }
}

/// What training reaches on this CPU: a share of what a large product does now.
fn cpu_flops() -> Result<f64> {
    let draw = || Tensor::randn([SIDE, SIDE], (Kind::Float, Device::Cpu));
    let (a, b) = (draw(), draw());
    guard(|| {
        _ = black_box(a.matmul(&b));
        let begun = Instant::now();
        for _ in 0..TIMES {
            _ = black_box(a.matmul(&b));
        }
        let flops = TIMES as f64 * 2.0 * (SIDE * SIDE * SIDE) as f64;
        Ok(OF_PRODUCTS * flops / begun.elapsed().as_secs_f64())
    })
}
