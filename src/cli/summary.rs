//! What a run will be and what came out of it, in a few lines for people, on standard output.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use crate::config::{Config, ExportFormat};
use crate::data::Dataset;
use crate::objective::Objective;
use crate::objective::distill::Distillation;
use crate::train::schedule::Schedule;

/// Teacher and students with their sizes.
pub fn print_models(models: &Distillation, config: &Config) {
    let row = |role: &str, size: String, count: u64| {
        println!("{role:<24} {size:<44} {:>8.1} M parameters", count as f64 / 1e6);
    };
    let teacher = models.teacher.parameters.count();
    row("teacher", config.teacher.model.to_string(), teacher);
    for (student, trainee) in config.students.iter().zip(models.trainees()) {
        let role = format!("student {}", student.name);
        row(&role, student.model.to_string(), trainee.parameters.count());
    }
}

/// Data and schedule.
pub fn print_plan(config: &Config, dataset: &Dataset, schedule: &Schedule) {
    let global = config.data.images_per_step();
    println!(
        "{:<24} {} samples in {} shards",
        "data",
        dataset.sample_count(),
        dataset.shard_count()
    );
    println!(
        "{:<24} {} of {global} pictures ({} at a time), {:.1} passes over the data",
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
pub fn print(config: &Config, run: &Path, steps: u64) -> Result<()> {
    println!("\nDone: {steps} steps, {} students.", config.students.len());
    let losses = losses(run)?;
    for student in &config.students {
        let folder = run.join("exports").join(&student.name);
        let change = match losses.iter().find(|found| found.0 == student.name) {
            Some((_, first, last)) => format!("loss {first:.4} -> {last:.4}"),
            None => String::new(),
        };
        println!("  {:<16} {change:<28} {}", student.name, folder.display());
    }
    println!("\nTry next:");
    if config.log.tensorboard {
        println!("  tensorboard --logdir {}", run.join("tensorboard").display());
    }
    if let (Some(student), true) =
        (config.students.first(), config.export.formats.contains(&ExportFormat::Hf))
    {
        let folder = run.join("exports").join(&student.name);
        println!(
            "  python3 -c 'from transformers import AutoModel; \
             print(AutoModel.from_pretrained(\"{}\"))'",
            folder.display()
        );
    }
    println!("  your own pictures: distill data pack FOLDER --out data/mine, then");
    println!("    --set 'data.shards=[\"data/mine/*.tar\"]' --set run.dir=runs/mine");
    if config.teacher.weights == "random" {
        println!("  a real teacher: this one had random weights, so the students learned to");
        println!("    imitate it and nothing else; configs/reference.toml shows how to name yours");
    }
    Ok(())
}

/// Each student's first and last logged loss.
fn losses(run: &Path) -> Result<Vec<(String, f64, f64)>> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl"))?;
    let rows: Vec<Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(Vec::new()) };
    let students = |row: &Value| row["students"].as_array().cloned().unwrap_or_default();
    Ok(students(first)
        .iter()
        .zip(students(last))
        .filter_map(|(first, last)| {
            let name = first["name"].as_str()?.to_string();
            Some((name, first["loss"].as_f64()?, last["loss"].as_f64()?))
        })
        .collect())
}
