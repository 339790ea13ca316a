//! What a run will be and what came out of it, in a few lines for people.

use crate::artifacts::paths;
use crate::config::ExportFormat;
use crate::run::scaling::Memory;
use crate::run::{Cost, Finished, Length, Planned, Summary};
use crate::tasks::{Network, TaskConfig};

/// Part of what a run will be.
pub fn planned(part: &Planned) -> String {
    match part {
        Planned::Networks(networks) => networks.iter().map(network).collect(),
        Planned::Length(planned) => length(planned),
        Planned::Notes(notes) => {
            notes.iter().map(|(name, note)| format!("{name:<24} {note}\n")).collect()
        }
        Planned::Cost(cost) => costs(cost),
        Planned::Begun(dir, step) => format!(
            "{:<24} {} exists, and would go on after step {step}; --resume never begins anew\n",
            "run",
            dir.display()
        ),
    }
}

fn network(Network { role, size, parameters, .. }: &Network) -> String {
    format!("{role:<24} {size:<44} {:>8.1} M parameters\n", *parameters as f64 / 1e6)
}

fn costs(cost: &Cost) -> String {
    let Cost { gpus, images, passes, memory, step, seconds, checkpoint, .. } = cost;
    let Memory { frozen, weights, gradients, moments, copies, activations } = memory;
    let gb = |bytes: f64| format!("{:.1}", bytes / 1e9);
    let mut text =
        format!("on {gpus} GPUs, predicted by what one H200 reached; nothing is measured\n");
    let mut row = |name: &str, what: String| text += &format!("  {name:<22} {what}\n");
    row(
        "memory of a GPU",
        format!(
            "{} GB: frozen weights {}, weights {}, gradients {}, moments {}, bf16 copies {}, activations {}",
            gb(memory.total()),
            gb(*frozen),
            gb(*weights),
            gb(*gradients),
            gb(*moments),
            gb(*copies),
            gb(*activations)
        ),
    );
    row(
        "step",
        format!(
            "{:.0} ms: {passes} passes of {images} images in {:.0} ms each, {:.1} ms waiting for gradients, \
             AdamW {:.1} ms; {:.0} images/s",
            1e3 * seconds,
            1e3 * step.computing,
            1e3 * step.exposed,
            1e3 * step.update,
            cost.images_per_second()
        ),
    );
    row("sent in a step", format!("{} GB by each GPU", gb(step.sent)));
    row(
        "checkpoint",
        format!(
            "{} GB; a GPU copies {:.2} GB in {:.2} s beside the next passes, written in {:.0} s at 2 GB/s a node",
            gb(*checkpoint),
            cost.share / 1e9,
            cost.copying,
            cost.writing
        ),
    );
    text
}

fn length(length: &Length) -> String {
    let Length { samples, shards, steps, global_batch, batch, passes, learning_rate } = length;
    format!(
        "{:<24} {samples} samples in {shards} shards\n\
         {:<24} {steps} of {global_batch} images ({batch} at a time), {passes:.1} passes over the \
         data\n\
         {:<24} up to {learning_rate:e}\n",
        "data", "steps", "learning rate"
    )
}

/// What came out, where it is, and what to try next.
pub fn finished(config: &dyn TaskConfig, summary: &Summary) -> String {
    let noun = config.task().trainee;
    let count = summary.encoders.len();
    let plural = if count == 1 { "" } else { "s" };
    let mut text = format!("\nDone: {} steps, {count} {noun}{plural}.\n", summary.steps);
    for Finished { name, losses, export } in &summary.encoders {
        let change =
            losses.map_or(String::new(), |[first, last]| format!("loss {first:.4} -> {last:.4}"));
        let folder = export.as_ref().map_or(String::new(), |folder| folder.display().to_string());
        text += format!("  {name:<16} {change:<28} {folder}").trim_end();
        text += "\n";
    }
    for result in &summary.evaluations {
        text += &format!("\n{}", result.table());
    }
    text + &next(config, summary) + &config.advice()
}

/// What to try next, whatever was trained.
fn next(config: &dyn TaskConfig, summary: &Summary) -> String {
    let train = config.train();
    let mut text = "\nTry next:\n".to_string();
    if train.log.tensorboard {
        let folder = paths::tensorboard(&train.run.dir);
        text += &format!("  tensorboard --logdir {}\n", folder.display());
    }
    let first = summary.encoders.first().and_then(|encoder| encoder.export.as_ref());
    if let (Some(folder), true) = (first, train.export.formats.contains(&ExportFormat::Hf)) {
        text += &format!(
            "  python3 -c 'from transformers import AutoModel; \
             print(AutoModel.from_pretrained(\"{}\"))'\n",
            folder.display()
        );
    }
    text
}
