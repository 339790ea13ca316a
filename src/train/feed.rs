//! Batches on the training device, and the time spent waiting for them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use crate::config::DataConfig;
use crate::data::Loader;
use crate::model::normalise;
use crate::native::{guard, peak_memory};
use crate::objective::MicroBatch;

/// Takes batches from the loader, moves their bytes to the device and normalises them there.
pub struct Feed {
    loader: Loader,
    side: i64,
    mean: [f64; 3],
    std: [f64; 3],
    device: Device,
    waited: Duration,
    failed: u64,
}

impl Feed {
    pub fn new(loader: Loader, config: &DataConfig, device: Device) -> Self {
        Self {
            loader,
            side: config.input_size as i64,
            mean: config.mean,
            std: config.std,
            device,
            waited: Duration::ZERO,
            failed: 0,
        }
    }

    /// The next batch of the stream.
    ///
    /// # Errors
    /// The data set cannot be read, or too many pictures fail to decode.
    pub fn next_batch(&mut self) -> Result<MicroBatch> {
        let started = Instant::now();
        let batch = self.loader.next_batch()?.context("the stream of batches ended early")?;
        self.waited += started.elapsed();
        self.failed = batch.failures.failed;
        guard(|| {
            let shape = [-1, self.side, self.side, 3];
            let bytes = Tensor::from_slice(batch.images()).view(shape).to_device(self.device);
            debug_assert_eq!(bytes.kind(), Kind::Uint8);
            let images = normalise(&bytes, self.mean, self.std);
            Ok(MicroBatch { images, positions: batch.positions.clone() })
        })
    }

    /// Time spent waiting for batches since this was last asked.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    /// Most memory that the training device gave this process so far, in bytes; on a GPU libtorch's
    /// bindings do not tell.
    pub fn peak_memory(&self) -> Option<u64> {
        (self.device == Device::Cpu).then(peak_memory).flatten()
    }

    /// Pictures so far that did not decode and were replaced.
    pub fn failed(&self) -> u64 {
        self.failed
    }
}
