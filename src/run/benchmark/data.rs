//! How fast this machine turns shards into batches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::config::DataConfig;
use crate::data::{Dataset, Loader};
use crate::native::proportional_memory;
use crate::run::worker_program::worker_program;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct DataReport {
    pub images_per_s: f64,
    pub workers: usize,
    pub decode_errors: u64,
    /// Encoded bytes of the images.
    pub bytes_per_s: f64,
    pub peak_memory_bytes: u64,
    pub images: u64,
    pub seconds: f64,
    pub size: usize,
    pub batch_size: usize,
}

/// Takes batches of `dataset` for some seconds, after a warm-up of a fifth of that.
///
/// # Errors
/// Shards cannot be read, or workers cannot be started.
pub fn batches(dataset: Arc<Dataset>, config: &DataConfig, seconds: f64) -> Result<DataReport> {
    let batch = config.batch_size as u64;
    let endless = (0u64..).map(move |number| number * batch..(number + 1) * batch);
    let mut loader = Loader::start(dataset.clone(), config, &worker_program()?, endless)?;
    take(&mut loader, seconds / 5.0, &mut Peak::default())?;
    let before = (loader.statistics().encoded_bytes, dataset.failure_counts().failed);
    let mut peak = Peak::default();
    let (images, seconds) = take(&mut loader, seconds, &mut peak)?;
    let after = loader.statistics();
    Ok(DataReport {
        images_per_s: images as f64 / seconds,
        workers: after.workers.len(),
        decode_errors: dataset.failure_counts().failed - before.1,
        bytes_per_s: (after.encoded_bytes - before.0) as f64 / seconds,
        peak_memory_bytes: peak.bytes,
        images,
        seconds,
        size: config.input_size,
        batch_size: config.batch_size,
    })
}

/// Takes batches for some seconds, and gives how many images came in how many seconds.
fn take(loader: &mut Loader, seconds: f64, peak: &mut Peak) -> Result<(u64, f64)> {
    let start = Instant::now();
    let mut images = 0;
    while start.elapsed().as_secs_f64() < seconds {
        let batch = loader.next_batch()?.context("the stream of batches ended")?;
        images += batch.labels.len() as u64;
        peak.look(loader);
    }
    Ok((images, start.elapsed().as_secs_f64()))
}

/// The peak of memory, sampled now and then.
#[derive(Default)]
struct Peak {
    bytes: u64,
    looked: Option<Instant>,
}

impl Peak {
    fn look(&mut self, loader: &Loader) {
        if self.looked.is_some_and(|looked| looked.elapsed() < Duration::from_secs(2)) {
            return;
        }
        self.looked = Some(Instant::now());
        let workers = loader.statistics().workers;
        let all = std::iter::once(std::process::id()).chain(workers);
        self.bytes = self.bytes.max(all.filter_map(proportional_memory).sum());
    }
}
