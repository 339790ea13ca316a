//! `distill bench data`: how fast this machine turns shards into batches.

use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::Args;
use indicatif::HumanBytes;

use crate::cli::output::print;
use crate::cli::patterns::PATTERN_HELP;
use crate::config::DataConfig;
use crate::data::Dataset;
use crate::run::benchmark;
use crate::ui::with_bar;

/// Measure the data plane: from shards to batches in the trainer
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

/// Runs the command.
pub fn run(args: &DataArgs) -> Result<()> {
    ensure!(args.seconds > 0.0 && args.seconds < 1e6, "--seconds: expected more than 0");
    let config = DataConfig {
        input_size: args.size.into(),
        batch_size: args.batch_size.into(),
        workers: args.workers,
        reduced_decoding: args.reduced_decoding,
        // Bad images are counted here, not a reason to stop.
        max_failed_share: 1.0,
        ..DataConfig::minimal(args.shards.clone())
    };
    let dataset = with_bar("opening shards", |progress| Dataset::open(&config, 0, progress))?;
    let report = benchmark::batches(Arc::new(dataset), &config, args.seconds)?;
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
