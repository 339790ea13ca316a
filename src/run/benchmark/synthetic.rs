//! Random images in the place of decoded ones.

use std::ops::Range;
use std::time::Duration;

use anyhow::Result;

use crate::config::TrainConfig;
use crate::draws::{Draws, Purpose};
use crate::train::prefetch::{BatchSource, HostBatch};

/// Random images, always there.
pub struct Synthetic {
    bytes: Vec<u8>,
    image_bytes: usize,
    ranges: Box<dyn Iterator<Item = Range<u64>>>,
}

impl Synthetic {
    /// Images for batches at these positions of the stream.
    pub fn new(config: &TrainConfig, ranges: impl Iterator<Item = Range<u64>> + 'static) -> Self {
        let image_bytes = 3 * config.data.input_size.pow(2);
        let mut draws = Draws::new(config.seed, Purpose::Crop, 0, 0);
        let draw = |_| (draws.uniform() * 256.0) as u8;
        let bytes = (0..image_bytes * config.data.batch_size).map(draw).collect();
        Self { bytes, image_bytes, ranges: Box::new(ranges) }
    }
}

impl BatchSource for Synthetic {
    fn is_ready(&mut self) -> bool {
        true
    }

    fn is_ready_within(&mut self, _: Duration) -> bool {
        true
    }

    fn next(&mut self, take: &mut dyn FnMut(HostBatch) -> Result<()>) -> Result<bool> {
        let Some(positions) = self.ranges.next() else { return Ok(false) };
        let length = positions.clone().count() * self.image_bytes;
        take(HostBatch { bytes: &self.bytes[..length], positions, failed: 0 })?;
        Ok(true)
    }
}
