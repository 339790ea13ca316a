//! Batches on the training device, and the time spent waiting for them.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tch::{Device, Tensor};

use crate::config::DataConfig;
use crate::data::Loader;
use crate::model::normalise;
use crate::native::{guard, peak_memory, upload};
use crate::objective::MicroBatch;

/// Batches that are on the device, or on their way there, before they are asked for.
const AHEAD: usize = 2;

/// Takes batches from the loader, moves their bytes to the device ahead of time, and normalises
/// them there.
pub struct Feed {
    loader: Loader,
    side: i64,
    mean: [f64; 3],
    std: [f64; 3],
    device: Device,
    on_device: VecDeque<Uploaded>,
    waited: Duration,
    failed: u64,
}

struct Uploaded {
    /// `[B, H, W, 3]`, uint8.
    bytes: Tensor,
    positions: Range<u64>,
}

impl Feed {
    pub fn new(loader: Loader, config: &DataConfig, device: Device) -> Self {
        Self {
            loader,
            side: config.input_size as i64,
            mean: config.mean,
            std: config.std,
            device,
            on_device: VecDeque::new(),
            waited: Duration::ZERO,
            failed: 0,
        }
    }

    /// The next batch of the stream.
    ///
    /// # Errors
    /// The data set cannot be read, too many pictures fail to decode, or the device has no memory
    /// left.
    pub fn next_batch(&mut self) -> Result<MicroBatch> {
        if self.on_device.is_empty() {
            let started = Instant::now();
            self.upload_next()?;
            self.waited += started.elapsed();
        }
        let Uploaded { bytes, positions } =
            self.on_device.pop_front().context("the stream of batches ended early")?;
        let images = guard(|| Ok(normalise(&bytes, self.mean, self.std)))?;
        while self.on_device.len() < AHEAD && self.loader.is_ready() {
            if !self.upload_next()? {
                break;
            }
        }
        Ok(MicroBatch { images, positions })
    }

    /// Waits until a batch is there, but no longer than `patience`. False if there is none yet.
    pub fn is_ready_within(&mut self, patience: Duration) -> bool {
        let started = Instant::now();
        let ready = !self.on_device.is_empty() || self.loader.is_ready_within(patience);
        self.waited += started.elapsed();
        ready
    }

    /// Sends the loader's next batch to the device. False after the last one.
    fn upload_next(&mut self) -> Result<bool> {
        let Some(batch) = self.loader.next_batch()? else { return Ok(false) };
        self.failed = batch.failures.failed;
        let shape = [batch.labels.len() as i64, self.side, self.side, 3];
        let bytes = upload(batch.images(), &shape, self.device)?;
        self.on_device.push_back(Uploaded { bytes, positions: batch.positions.clone() });
        Ok(true)
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
