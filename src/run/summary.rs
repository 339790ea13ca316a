//! What a run will be and what came out of it, in a few lines for people, on standard output.

use std::path::Path;

use anyhow::{Context, Result};
use tch::Tensor;

use super::evaluation::Evaluation;
use crate::artifacts::MetricsLines;
use crate::config::{ExportFormat, TrainConfig};
use crate::data::Dataset;
use crate::tasks::distill::DistillConfig;
use crate::tasks::distill::Distillation;
use crate::tasks::pretrain::Autoencoder;
use crate::tasks::pretrain::PretrainConfig;
use crate::tasks::{Task, TaskConfig};
use crate::train::objective::Objective;
use crate::train::schedule::Schedule;

/// Teacher and students with their sizes.
pub fn print_distillation(models: &Distillation, config: &DistillConfig) {
    let teacher = models.teacher.parameters.count();
    print_model("teacher", &config.teacher.model, teacher);
    for (student, trainee) in config.students.iter().zip(models.trainees()) {
        let role = format!("student {}", student.name);
        print_model(&role, &student.model, trainee.parameters.count());
    }
}

/// Encoder and decoder with their sizes.
pub fn print_autoencoder(models: &Autoencoder, config: &PretrainConfig) {
    let encoder = &config.encoder.model;
    let of_encoder = |(name, _): &&(String, Tensor)| !encoder.family.is_beside(name);
    let (own, decoder): (Vec<_>, Vec<_>) =
        models.trainees()[0].parameters.named().iter().partition(of_encoder);
    let count = |named: Vec<&(String, Tensor)>| {
        named.iter().map(|(_, tensor)| tensor.numel() as u64).sum::<u64>()
    };
    print_model("encoder", encoder, count(own));
    print_model("decoder", &config.decoder.shape(encoder), count(decoder));
}

fn print_model(role: &str, size: &dyn std::fmt::Display, count: u64) {
    println!("{role:<24} {:<44} {:>8.1} M parameters", size.to_string(), count as f64 / 1e6);
}

/// Data and schedule.
pub fn print_plan(config: &TrainConfig, dataset: &Dataset, schedule: &Schedule) {
    let global = config.data.images_per_step();
    println!(
        "{:<24} {} samples in {} shards",
        "data",
        dataset.sample_count(),
        dataset.shard_count()
    );
    println!(
        "{:<24} {} of {global} images ({} at a time), {:.1} passes over the data",
        "steps",
        schedule.total_steps(),
        config.data.batch_size,
        schedule.total_steps() as f64 * global as f64 / dataset.sample_count() as f64
    );
    println!("{:<24} up to {:e}", "learning rate", schedule.peak);
}

/// What came out, where it is, and what to try next.
///
/// # Errors
/// The run's metrics cannot be read.
pub fn print(task: &impl TaskConfig, steps: u64, evaluation: Option<&Evaluation>) -> Result<()> {
    let (config, encoders) = (task.train(), task.encoders());
    let run = config.run.dir.as_path();
    let noun = noun(task);
    let plural = if encoders.len() == 1 { "" } else { "s" };
    println!("\nDone: {steps} steps, {} {noun}{plural}.", encoders.len());
    let losses = losses(run)?;
    for encoder in encoders {
        let folder = run.join("exports").join(&encoder.name);
        let change = match losses.iter().find(|found| found.0 == encoder.name) {
            Some((_, first, last)) => format!("loss {first:.4} -> {last:.4}"),
            None => String::new(),
        };
        println!("  {:<16} {change:<28} {}", encoder.name, folder.display());
    }
    if let Some(evaluation) = evaluation {
        print!("\n{}", evaluation.table());
    }
    println!("\nTry next:");
    if config.log.tensorboard {
        println!("  tensorboard --logdir {}", run.join("tensorboard").display());
    }
    if let (Some(encoder), true) =
        (encoders.first(), config.export.formats.contains(&ExportFormat::Hf))
    {
        let folder = run.join("exports").join(&encoder.name);
        println!(
            "  python3 -c 'from transformers import AutoModel; \
             print(AutoModel.from_pretrained(\"{}\"))'",
            folder.display()
        );
    }
    Ok(())
}

/// What a task calls the encoders that it trains.
fn noun<C: TaskConfig>(_: &C) -> &'static str {
    match C::TASK {
        Task::Distill => "student",
        Task::Pretrain => "encoder",
    }
}

/// Each encoder's first and last logged loss.
fn losses(run: &Path) -> Result<Vec<(String, f64, f64)>> {
    let read = MetricsLines::read(run);
    let lines =
        read.with_context(|| format!("cannot read the metrics of {}", run.display()))?.lines;
    let (Some(first), Some(last)) = (lines.first(), lines.last()) else { return Ok(Vec::new()) };
    let pairs = first.metrics.trainees.iter().zip(&last.metrics.trainees);
    Ok(pairs
        .filter(|(first, last)| first.loss.is_finite() && last.loss.is_finite())
        .map(|(first, last)| (first.name.clone(), first.loss, last.loss))
        .collect())
}
