//! `distill plan`: what a step of a run costs on many GPUs, on paper.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use comfy_table::{Table, presets};

use super::output::print;
use crate::config::ConfigError;
use crate::run::scaling::{Cluster, Gpu, Work};
use crate::tasks;

/// Predict what a step costs on many GPUs, from figures that you give
///
/// Nothing is measured: the table follows from the operations and gradients of the config's models and from
/// what is assumed here of GPUs and network (docs/SCALING.md). Measure one GPU with `distill bench step` and
/// the network with NCCL's all_reduce_perf, and put in what they say.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: distill plan --config configs/5b_to_1b_h.toml --gpus 8,64 --bandwidth 350,300 --latency 30,45"
)]
pub struct PlanArgs {
    /// Config of a run
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Override a key of the config, for example distributed.shard_optimizer=true
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Numbers of GPUs
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,8,128,1024")]
    gpus: Vec<usize>,
    /// Bus bandwidth of collectives on so many GPUs, in GB/s, as nccl-tests say
    #[arg(
        long,
        value_name = "GB/s,GB/s",
        value_delimiter = ',',
        default_value = "350,350,300,200"
    )]
    bandwidth: Vec<f64>,
    /// Latency of a collective on so many GPUs, in microseconds
    #[arg(long, value_name = "US,US", value_delimiter = ',', default_value = "30,30,60,100")]
    latency: Vec<f64>,
    /// What training reaches on a GPU, in TFLOP/s: 60 % of an H100's 989
    #[arg(long, value_name = "TFLOP/s", default_value_t = 593.4)]
    tflops: f64,
    /// Memory bandwidth of a GPU, in TB/s
    #[arg(long, value_name = "TB/s", default_value_t = 3.35)]
    memory_bandwidth: f64,
    /// Images of a step on all GPUs together, instead of data.batch_size on each
    #[arg(long, value_name = "N")]
    global_batch: Option<usize>,
}

/// Runs the command.
pub fn run(args: &PlanArgs) -> Result<()> {
    let config = tasks::load(&args.config, &args.set)?;
    let clusters = clusters(args)?;
    let work = Work::of(&*config);
    let gpu = Gpu { flops: args.tflops * 1e12, memory: args.memory_bandwidth * 1e12 };
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "GPUs",
        "images",
        "each",
        "passes",
        "travelling",
        "exposed",
        "AdamW",
        "step",
        "images/s",
        "efficiency",
        "memory",
    ]);
    for cluster in clusters {
        let gpus = cluster.gpus as f64;
        let each = match args.global_batch {
            Some(global) => global as f64 / gpus,
            None => config.train().data.batch_size as f64,
        };
        let step = work.step(gpu, cluster, each);
        let memory = work.memory(cluster.gpus, each, false).total();
        let alone = work.step(gpu, Cluster { gpus: 1, ..cluster }, each);
        let ms = |seconds: f64| format!("{:.1} ms", 1e3 * seconds);
        table.add_row([
            cluster.gpus.to_string(),
            format!("{:.0}", each * gpus),
            format!("{each:.1}"),
            ms(step.computing),
            ms(step.travelling),
            ms(step.exposed),
            ms(step.update),
            ms(step.total),
            format!("{:.0}", each * gpus / step.total),
            format!("{:.1} %", 100.0 * alone.total / step.total),
            format!("{:.1} GB", memory / 1e9),
        ]);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_string()).collect();
    print(&format!(
        "{}\nPredicted, not measured, at {} TFLOP/s and {} TB/s a GPU. Memory is without NCCL's buffers.\n",
        lines.join("\n"),
        args.tflops,
        args.memory_bandwidth
    ))
}

/// What is assumed of each number of GPUs.
fn clusters(args: &PlanArgs) -> Result<Vec<Cluster>> {
    let count = args.gpus.len();
    for (key, found) in [("--bandwidth", args.bandwidth.len()), ("--latency", args.latency.len())] {
        let message =
            format!("found {found}, expected as many as --gpus has, {count}, with commas between");
        ensure!(found == count, ConfigError { file: PathBuf::new(), key: key.into(), message });
    }
    let numbers = args.bandwidth.iter().chain(&args.latency).chain([&args.tflops]);
    let are_positive = numbers.chain([&args.memory_bandwidth]).all(|&one| one > 0.0);
    let message = "expected numbers greater than 0".to_string();
    ensure!(
        are_positive && args.gpus.iter().all(|&gpus| gpus > 0) && args.global_batch != Some(0),
        ConfigError { file: PathBuf::new(), key: "plan".into(), message }
    );
    let all = args.gpus.iter().zip(&args.bandwidth).zip(&args.latency);
    let cluster = |((&gpus, bandwidth), latency): ((&usize, &f64), &f64)| Cluster {
        gpus,
        bandwidth: bandwidth * 1e9,
        latency: latency * 1e-6,
    };
    Ok(all.map(cluster).collect())
}
