//! `distill bench data`: how fast this machine turns shards into batches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::HumanBytes;
use serde::Serialize;

use crate::cli::data::{PATTERN_HELP, defaults, print, with_bar};
use crate::config::DataConfig;
use crate::data::{Dataset, Loader};
use crate::native::proportional_memory;

/// Measure the data plane: from shards to batches in the trainer's hands
///
/// Takes batches as a training run does, through worker processes and shared memory, and throws
/// them away. The order is that of seed 0; data sets that are shorter than the measurement are
/// gone through again. Memory is that of this process and its workers, with what they share
/// counted once.
#[derive(Debug, Args)]
#[command(after_help = PATTERN_HELP)]
pub struct DataArgs {
    /// Shards; may be given several times
    #[arg(long, required = true, value_name = "PATTERN")]
    shards: Vec<String>,
    /// Side of the crops, in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 256,
          value_parser = clap::value_parser!(u16).range(1..=4096))]
    size: u16,
    /// Worker processes; 0 takes one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    workers: usize,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(1..=8192))]
    batch_size: u16,
    /// How long to measure, after a warm-up of a fifth of that
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    seconds: f64,
    /// Decode large JPEGs at a fraction of their size (data.reduced_decoding)
    #[arg(long)]
    reduced_decoding: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct DataReport {
    images_per_s: f64,
    workers: usize,
    decode_errors: u64,
    /// Encoded bytes of the images.
    bytes_per_s: f64,
    peak_memory_bytes: u64,
    images: u64,
    seconds: f64,
    size: u16,
    batch_size: u16,
}

/// Runs the command.
///
/// # Errors
/// What the user has to know, in a line.
pub fn run(args: &DataArgs) -> Result<()> {
    let report = measure_data(args)?;
    print(&if args.json {
        serde_json::to_string(&report)? + "\n"
    } else {
        format!(
            "{:.0} images/s with {} workers ({}/s encoded, {} decode errors, peak memory {})\n",
            report.images_per_s,
            report.workers,
            HumanBytes(report.bytes_per_s as u64),
            report.decode_errors,
            HumanBytes(report.peak_memory_bytes)
        )
    })
}

fn measure_data(args: &DataArgs) -> Result<DataReport> {
    ensure!(args.seconds > 0.0 && args.seconds < 1e6, "--seconds: expected more than 0");
    let config = DataConfig {
        input_size: args.size.into(),
        batch_size: args.batch_size.into(),
        workers: args.workers,
        reduced_decoding: args.reduced_decoding,
        // Bad images are counted here, not a reason to stop.
        max_failed_share: 1.0,
        ..defaults(args.shards.clone())?
    };
    let dataset =
        with_bar("opening shards", |progress| Dataset::open(&config, 0, progress)).map(Arc::new)?;
    let batch = u64::from(args.batch_size);
    let endless = (0u64..).map(move |number| number * batch..(number + 1) * batch);
    let program = crate::run::worker_program()?;
    let mut loader = Loader::start(dataset.clone(), &config, &program, endless)?;
    take(&mut loader, args.seconds / 5.0, &mut Peak::default())?;
    let before = (loader.statistics().encoded_bytes, dataset.failure_counts().failed);
    let mut peak = Peak::default();
    let (images, seconds) = take(&mut loader, args.seconds, &mut peak)?;
    let after = loader.statistics();
    Ok(DataReport {
        images_per_s: images as f64 / seconds,
        workers: after.workers.len(),
        decode_errors: dataset.failure_counts().failed - before.1,
        bytes_per_s: (after.encoded_bytes - before.0) as f64 / seconds,
        peak_memory_bytes: peak.bytes,
        images,
        seconds,
        size: args.size,
        batch_size: args.batch_size,
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

/// The most memory seen, looked at now and then.
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
