//! `distill bench step`: how fast this machine trains.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use indicatif::HumanBytes;

use crate::cli::output::print;
use crate::config::{DeviceChoice, Precision};
use crate::native::PEAKS;
use crate::run::benchmark::{self, StepOptions, StepReport};
use crate::tasks;

/// Measure training steps: teacher and students, or an autoencoder; the optimizer, the memory
///
/// Takes the steps that a training run takes, with random weights and random images that are there
/// at once: no shards are read, nothing is written. A step is one batch of data.batch_size in every
/// process; under a launcher all processes take part, and the first one's figures are printed. On a
/// GPU times are its own (CUDA events).
#[derive(Debug, Args)]
pub struct StepArgs {
    /// What would be trained: a TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Override a key of the config, for example data.batch_size=32
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Where to compute; left out, what run.device says
    #[arg(long, value_enum)]
    device: Option<DeviceChoice>,
    /// Steps to measure
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u64).range(1..=10_000))]
    steps: u64,
    /// Steps before them that are not measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    warmup: u32,
    /// Peak of the device for the model FLOPs utilisation (MFU): the maker's figure for dense bf16
    /// [default: by the GPU's name]
    #[arg(long, value_parser = PEAKS.map(|peak| peak.name))]
    peak: Option<String>,
    /// Write a trace of two further steps, which ui.perfetto.dev opens: what CPU and GPU do, part by part
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &StepArgs) -> Result<()> {
    let mut config = tasks::load(&args.config, &args.set)?;
    if let Some(device) = args.device {
        config.train_mut().run.device = device;
    }
    let StepArgs { warmup, steps, .. } = *args;
    let (peak, profile) = (args.peak.as_deref(), args.profile.as_deref());
    let options = StepOptions { warmup, steps, peak, profile };
    match benchmark::steps(config, &options)? {
        None => Ok(()),
        Some(report) if args.json => print(&(serde_json::to_string(&report)? + "\n")),
        Some(report) => print(&table(&report)),
    }
}

fn table(report: &StepReport) -> String {
    let mut lines = vec![format!(
        "{:.1} images/s, {:.1} ms a step of {} images in {} ({})",
        report.images_per_s,
        report.step_ms,
        report.batch_size * report.processes,
        if report.precision == Precision::Bf16 { "bf16" } else { "fp32" },
        report.device_name
    )];
    let mut row = |what: &str, ms: f64| {
        lines.push(format!("{what:<30} {ms:>9.1} ms {:>5.1} %", 100.0 * ms / report.step_ms));
    };
    row("waiting for images", report.data_wait_ms);
    row("teacher or targets", report.teacher_ms);
    for student in &report.students {
        row(&format!("{}, forward", student.name), student.forward_ms);
        row(&format!("{}, backward", student.name), student.backward_ms);
    }
    row("waiting for gradients", report.communication_ms);
    row("optimizer", report.optimizer_ms);
    let flops = report.images_per_s * report.flops_per_image / report.processes as f64;
    let share = match (report.mfu, report.peak) {
        (Some(mfu), Some(peak)) => {
            let peak_flops = peak.flops_per_s / 1e12;
            format!(", MFU {:.1} % of {peak_flops:.0} ({})", 100.0 * mfu, peak.name)
        }
        _ => String::new(),
    };
    lines.push(format!(
        "{:.2} GFLOP an image by the recipe, {:.3} TFLOP/s{share}",
        report.flops_per_image / 1e9,
        flops / 1e12
    ));
    if let Some(bytes) = report.peak_memory_bytes {
        lines.push(format!("peak memory {}", HumanBytes(bytes)));
    }
    lines.join("\n") + "\n"
}
