//! Batches on the training device, and the time spent waiting for them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tch::{Device, Tensor};

use crate::config::DataConfig;
use crate::data::Loader;
use crate::native::{PeakMemory, guard, upload};
use crate::nn::Normalisation;
use crate::status::{self, Registration};
use crate::train::objective::MicroBatch;

/// Batches that are on the device, or on their way there, before they are asked for.
const AHEAD: usize = 2;

/// A source of batches on the host.
pub trait BatchSource {
    /// Whether [`Self::next`] would return at once.
    fn is_ready(&mut self) -> bool;

    /// [`Self::is_ready`], waiting for it no longer than `patience`.
    fn is_ready_within(&mut self, patience: Duration) -> bool;

    /// Shows the next batch to `take`; false after the last one.
    ///
    /// # Errors
    /// The data set cannot be read, or the error of `take`.
    fn next(&mut self, take: &mut dyn FnMut(HostBatch) -> Result<()>) -> Result<bool>;
}

/// A batch of images on the host.
pub struct HostBatch<'a> {
    /// `[B, H, W, 3]`, 8-bit RGB.
    pub bytes: &'a [u8],
    /// Places of the B images in the global stream.
    pub positions: Range<u64>,
    /// Images so far that did not decode and were replaced.
    pub failed: u64,
}

impl BatchSource for Loader {
    fn is_ready(&mut self) -> bool {
        Loader::is_ready(self)
    }

    fn is_ready_within(&mut self, patience: Duration) -> bool {
        Loader::is_ready_within(self, patience)
    }

    fn next(&mut self, take: &mut dyn FnMut(HostBatch) -> Result<()>) -> Result<bool> {
        let Some(batch) = self.next_batch()? else { return Ok(false) };
        let (positions, failed) = (batch.positions.clone(), batch.failures.failed);
        take(HostBatch { bytes: batch.images(), positions, failed })?;
        Ok(true)
    }
}

/// Takes batches from their source, moves their bytes to the device ahead of time, and normalises
/// them there.
pub struct DevicePrefetcher {
    source: Box<dyn BatchSource>,
    image_size: i64,
    normalisation: Normalisation,
    device: Device,
    on_device: VecDeque<Uploaded>,
    waited: Duration,
    failed: u64,
    glance: Arc<Glance>,
    _status: Registration,
}

/// What a dump says of a prefetcher.
#[derive(Default)]
struct Glance(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    on_device: usize,
    failed: u64,
    waiting_since: Option<Instant>,
}

impl Glance {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self) -> String {
        let Seen { on_device, failed, waiting_since } = &*self.seen();
        let waits = match waiting_since {
            Some(since) => {
                format!("waiting for the loader for {:.1} s", since.elapsed().as_secs_f64())
            }
            None => "not waiting for the loader".into(),
        };
        format!("{on_device} of {AHEAD} batches on the device; {waits}; {failed} images failed")
    }
}

struct Uploaded {
    /// `[B, H, W, 3]`, uint8.
    bytes: Tensor,
    positions: Range<u64>,
}

impl DevicePrefetcher {
    /// A prefetcher of the batches of `source`, normalised as `config` says.
    pub fn new(source: Box<dyn BatchSource>, config: &DataConfig, device: Device) -> Result<Self> {
        let normalisation = guard(|| Ok(Normalisation::new(config.mean, config.std, device)))?;
        let glance = Arc::new(Glance::default());
        let described = glance.clone();
        let status = status::register("prefetcher", move || described.describe());
        Ok(Self {
            source,
            image_size: config.input_size as i64,
            normalisation,
            device,
            on_device: VecDeque::new(),
            waited: Duration::ZERO,
            failed: 0,
            glance,
            _status: status,
        })
    }

    /// The next batch of the stream.
    ///
    /// # Errors
    /// The data set cannot be read, too many images fail to decode, or the device has no memory
    /// left.
    pub fn next_batch(&mut self) -> Result<MicroBatch> {
        if self.on_device.is_empty() {
            let started = Instant::now();
            self.glance.seen().waiting_since.get_or_insert(started);
            self.upload_next()?;
            self.waited += started.elapsed();
        }
        let Uploaded { bytes, positions } =
            self.on_device.pop_front().context("the stream of batches ended early")?;
        let images = guard(|| Ok(self.normalisation.apply(&bytes)))?;
        while self.on_device.len() < AHEAD && self.source.is_ready() {
            if !self.upload_next()? {
                break;
            }
        }
        *self.glance.seen() =
            Seen { on_device: self.on_device.len(), failed: self.failed, waiting_since: None };
        Ok(MicroBatch { images, positions })
    }

    /// Waits until a batch is there, but no longer than `patience`. False if there is none yet.
    pub fn is_ready_within(&mut self, patience: Duration) -> bool {
        let started = Instant::now();
        self.glance.seen().waiting_since.get_or_insert(started);
        let ready = !self.on_device.is_empty() || self.source.is_ready_within(patience);
        self.waited += started.elapsed();
        ready
    }

    /// Sends the next batch to the device. False after the last one.
    fn upload_next(&mut self) -> Result<bool> {
        let Self { source, on_device, failed, image_size, device, .. } = self;
        source.next(&mut |pixels| {
            let HostBatch { bytes, positions, failed: failed_so_far } = pixels;
            let shape = [(positions.end - positions.start) as i64, *image_size, *image_size, 3];
            let bytes = upload(bytes, &shape, *device)?;
            on_device.push_back(Uploaded { bytes, positions });
            *failed = failed_so_far;
            Ok(())
        })
    }

    /// Time spent waiting for batches since this was last asked.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    /// Peak memory of this process on the training device so far, in bytes.
    pub fn peak_memory(&self) -> Option<u64> {
        PeakMemory::of(self.device).map(|peak| peak.held)
    }

    /// Images so far that did not decode and were replaced.
    pub fn failed(&self) -> u64 {
        self.failed
    }
}
