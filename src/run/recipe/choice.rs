//! The numbers of a recipe, and why they are so.

use std::time::Duration;

use anyhow::{Result, ensure};
use indicatif::{HumanCount, HumanDuration};

use super::images::FoundImages;
use super::machine::Machine;
use super::models::Models;
use super::wishes::Wishes;
use crate::config::Precision;
use crate::run::scaling::Work;
use crate::run::viewing::least_common_multiple;
use crate::tasks::distill::DistillConfig;
use crate::tasks::{TaskConfig, TraineeConfig};

/// What was chosen.
pub struct Choice {
    /// Side of the images, in pixels, and why.
    pub input_size: usize,
    pub why_size: String,
    /// Images of a step over all processes, and of one pass of one process.
    pub global_batch: usize,
    pub batch: usize,
    pub why_batch: String,
    pub epochs: f64,
    pub why_epochs: String,
    /// Steps of an epoch, where it is not one pass over the images.
    pub steps_per_epoch: u64,
    pub learning_rate: f64,
    pub checkpoint_every: u64,
    pub log_every: u64,
    pub precision: Precision,
    /// Seconds that all steps take, predicted.
    seconds: f64,
}

/// Largest image that is chosen: what most published encoders are trained on.
const LARGEST: usize = 256;
/// Most images of a step: as many as a node of GPUs takes at once.
const LARGEST_BATCH: usize = 1024;
const LARGEST_BATCH_OF_CPU: usize = 64;
/// Most images of a pass: more make no GPU faster.
const LARGEST_PASS: usize = 256;
/// Fewest steps of a pass over the images: a step of all of them would be one update an epoch.
const FEWEST_STEPS: u64 = 20;
/// Epochs of a recipe on GPUs, as published recipes of distillation on ImageNet have at least.
const EPOCHS: f64 = 100.0;
/// How long a recipe on a CPU is to take.
const CPU_SECONDS: f64 = 3600.0;
/// The learning rate of a step of so many images and more: the published one. For smaller steps AdamW's goes with the
/// square root of their images (Malladi et al., 2022).
const LEARNING_RATE: f64 = 1e-3;
const RATE_BATCH: f64 = 256.0;

impl Choice {
    /// Chooses.
    ///
    /// # Errors
    /// What is asked for does not fit.
    pub fn of(
        wishes: &Wishes,
        models: &Models,
        images: &FoundImages,
        machine: &Machine,
    ) -> Result<Self> {
        let (input_size, why_size) = input_size(wishes, models)?;
        let precision = if machine.is_gpu() { Precision::Bf16 } else { Precision::Fp32 };
        let config = sketch(wishes, models, input_size, precision);
        let (global_batch, batch, why_batch) = batch(wishes, &config, images, machine);
        let flops = config.flops_per_image();
        let seconds_of_image = flops / machine.flops / machine.processes as f64;
        let steps_per_epoch = (images.samples / global_batch as u64).max(1);
        let seconds_of_epoch = (steps_per_epoch * global_batch as u64) as f64 * seconds_of_image;
        let (epochs, why_epochs) = match wishes.epochs {
            Some(epochs) => (epochs, "as asked for".to_string()),
            None if machine.is_gpu() => (
                EPOCHS,
                "what published recipes take at least; fewer learn less, more help on".into(),
            ),
            None => {
                let epochs = (CPU_SECONDS / seconds_of_epoch).clamp(1.0, EPOCHS).floor();
                (epochs, "as many as take about an hour on this CPU, at most 100".into())
            }
        };
        ensure!(epochs > 0.0 && epochs.is_finite(), "--epochs is {epochs}, expected more than 0");
        let steps = (epochs * steps_per_epoch as f64).ceil() as u64;
        Ok(Self {
            input_size,
            why_size,
            global_batch,
            batch,
            why_batch,
            epochs,
            why_epochs,
            steps_per_epoch,
            learning_rate: learning_rate(global_batch),
            checkpoint_every: (steps / 20).clamp(10, 5000),
            log_every: (steps / 200).clamp(1, 50),
            precision,
            seconds: seconds_of_epoch * epochs,
        })
    }

    pub fn in_words(&self, machine: &Machine) -> Vec<(&'static str, String)> {
        let Self { input_size, global_batch, epochs, steps_per_epoch, .. } = *self;
        let steps = (epochs * steps_per_epoch as f64).ceil() as u64;
        let processes = match machine.processes {
            1 => String::new(),
            processes => format!(", in {processes} processes, one a GPU"),
        };
        let time = HumanDuration(Duration::from_secs_f64(self.seconds.min(1e9)));
        let beside = match machine.is_gpu() {
            true => "by what one H200 reached",
            false => "by what this CPU's products reach now",
        };
        vec![
            ("size", format!("{input_size} × {input_size} pixels: {}", self.why_size)),
            ("batch", format!("{global_batch} images a step: {}", self.why_batch)),
            (
                "length",
                format!(
                    "{epochs} epochs, {} steps: {}; about {time}, predicted {beside}",
                    HumanCount(steps),
                    self.why_epochs
                ),
            ),
            ("machine", format!("{}{processes}", machine.name)),
        ]
    }
}

/// The configuration, as far as it decides what a step costs.
fn sketch(
    wishes: &Wishes,
    models: &Models,
    input_size: usize,
    precision: Precision,
) -> DistillConfig {
    let mut config = DistillConfig::minimal(&wishes.dir, models.teacher);
    config.train.data.input_size = input_size;
    config.train.run.precision = precision;
    let student = |(name, spec): &(&'static str, _)| TraineeConfig::minimal(name, *spec);
    config.students = models.students.iter().map(student).collect();
    config
}

/// The largest size up to the teacher's, and up to [`LARGEST`], that all patches divide.
fn input_size(wishes: &Wishes, models: &Models) -> Result<(usize, String)> {
    let patches = || {
        let students = models.students.iter().map(|(_, spec)| spec.patch_size);
        students.chain([models.teacher.patch_size])
    };
    let of_all = patches().fold(1, least_common_multiple);
    let words = match patches().all(|patch| patch == of_all) {
        true => format!("a multiple of patches of {of_all} pixels"),
        false => format!("a multiple of {of_all}, which all patches divide"),
    };
    if let Some(size) = wishes.input_size {
        ensure!(
            size > 0 && size.is_multiple_of(of_all),
            "--input-size is {size}, expected {words}"
        );
        return Ok((size, "as asked for".into()));
    }
    let known = if models.teacher_size == 0 { LARGEST } else { models.teacher_size };
    let most = known.min(LARGEST);
    let size = (most / of_all * of_all).max(of_all);
    let why = match size == models.teacher_size {
        true => "what the teacher was trained on".into(),
        false => format!("{words}, up to {most}"),
    };
    Ok((size, why))
}

/// Images of a step, of a pass of one process, and why.
fn batch(
    wishes: &Wishes,
    config: &DistillConfig,
    images: &FoundImages,
    machine: &Machine,
) -> (usize, usize, String) {
    let most = if machine.is_gpu() { LARGEST_BATCH } else { LARGEST_BATCH_OF_CPU };
    let few = (images.samples / FEWEST_STEPS).max(1) as usize;
    let processes = machine.processes;
    let chosen = power_of_two(few.min(most)).max(processes);
    let (global, mut why) = match wishes.batch {
        Some(asked) => (asked.div_ceil(processes) * processes, "as asked for".to_string()),
        None if chosen < most => (chosen, format!("{FEWEST_STEPS} steps or more an epoch")),
        None => (
            chosen,
            format!("at most {most} on {}", if machine.is_gpu() { "GPUs" } else { "a CPU" }),
        ),
    };
    let of_process = global / processes;
    let work = Work::of(config);
    let fits = |pass: &usize| {
        let memory = work.memory(processes, *pass as f64, *pass < of_process);
        memory.total() <= machine.memory
    };
    // Passes are equal parts of a process's share.
    let passes = (1..=of_process.min(LARGEST_PASS)).rev();
    let pass = passes.filter(|pass| of_process.is_multiple_of(*pass)).find(fits).unwrap_or(1);
    if pass < of_process {
        why += &format!(", in passes of {pass}, which fit into memory by estimate");
    }
    (global, pass, why)
}

fn power_of_two(most: usize) -> usize {
    1 << most.max(1).ilog2()
}

fn learning_rate(global_batch: usize) -> f64 {
    rounded(LEARNING_RATE * (global_batch as f64 / RATE_BATCH).sqrt().min(1.0))
}

/// With two digits.
fn rounded(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().unwrap_or(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_they_are_called() {
        assert_eq!(least_common_multiple(14, 16), 112);
        assert_eq!(least_common_multiple(16, 16), 16);
        assert_eq!([1, 2, 3, 64, 1000].map(power_of_two), [1, 2, 2, 64, 512]);
        assert_eq!([16, 32, 64, 256, 1024].map(learning_rate), [2.5e-4, 3.5e-4, 5e-4, 1e-3, 1e-3]);
    }
}
