//! What a run will be.

use std::path::PathBuf;

use anyhow::Result;

use super::identity::{compare_data, go_on, identity};
use super::opening::open_dataset;
use super::options::Options;
use super::scaling::{Cluster, Gpu, Memory, Step, Work};
use super::{device, evaluation, setup};
use crate::config::TrainConfig;
use crate::data::Dataset;
use crate::dist::{RankInfo, environment};
use crate::tasks::{Network, TaskConfig};
use crate::train::checkpoint::{self, Checkpoint};
use crate::train::run_directory::Resume;
use crate::train::schedule::Schedule;

/// Part of what a run will be, as [`plan`] finds it out.
#[derive(Debug)]
pub enum Planned {
    /// The models, before the weights are looked at that the configuration names.
    Networks(Vec<Network>),
    /// What there is to say of them besides: what, and about which.
    Notes(Vec<(String, String)>),
    Length(Length),
    /// What it would cost on so many GPUs, by rates that one reached.
    Cost(Cost),
    /// The run's directory holds one that was begun, whose newest whole checkpoint is after this step.
    Begun(PathBuf, u64),
}

/// Data and schedule of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Length {
    pub samples: u64,
    pub shards: usize,
    /// Optimizer steps.
    pub steps: u64,
    /// Images of a step.
    pub global_batch: usize,
    /// Images of one forward pass.
    pub batch: usize,
    /// How often each sample is seen.
    pub passes: f64,
    /// Highest learning rate.
    pub learning_rate: f64,
}

/// What a run costs on GPUs, predicted: see [`Work`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    pub gpus: usize,
    /// Images of a pass on a GPU, and passes of a step.
    pub images: usize,
    pub passes: usize,
    pub memory: Memory,
    /// The last pass of a step, and what comes after it.
    pub step: Step,
    /// Of a step with all its passes.
    pub seconds: f64,
    /// Bytes of a checkpoint, and the most that a GPU copies out and writes of it.
    pub checkpoint: f64,
    pub share: f64,
    /// Seconds of that, and of writing the shares of a node.
    pub copying: f64,
    pub writing: f64,
}

/// Rates at which checkpoints leave a GPU and reach a file system, in bytes a second: pinned memory, and what one
/// disk takes or a node gives to storage that all share.
const COPYING: f64 = 50e9;
const WRITING: f64 = 2e9;
const GPUS_OF_A_NODE: f64 = 8.0;

impl Cost {
    fn of(config: &dyn TaskConfig, gpus: usize) -> Self {
        let (work, train) = (Work::of(config), config.train());
        // Left out, the global batch is one batch of every process.
        let global = train.data.global_batch_size.unwrap_or(train.data.batch_size * gpus);
        let of_gpu = global.div_ceil(gpus);
        let images = train.data.batch_size.min(of_gpu);
        let passes = of_gpu.div_ceil(images);
        let step = work.step(Gpu::MEASURED, Cluster::assumed(gpus), images as f64);
        let checkpoint = work.checkpoint_bytes();
        let writers = gpus.min(train.checkpoint.writers) as f64;
        let share = match train.distributed.shard_optimizer {
            true => checkpoint / 3.0 / writers + checkpoint * 2.0 / 3.0 / gpus as f64,
            false => checkpoint / writers,
        };
        Self {
            gpus,
            images,
            passes,
            memory: work.memory(gpus, images as f64, passes > 1),
            step,
            seconds: step.total + (passes - 1) as f64 * step.computing,
            checkpoint,
            share,
            copying: share / COPYING,
            // All GPUs of a node write to one disk or over one network.
            writing: share * GPUS_OF_A_NODE.min(gpus as f64) / WRITING,
        }
    }

    /// Images a second on all GPUs.
    pub fn images_per_second(&self) -> f64 {
        (self.gpus * self.images * self.passes) as f64 / self.seconds
    }
}

/// Finds out everything that can be found wrong before training, without training, and tells `report`
/// what the run would be, and on so many `gpus`, if that is asked, would cost.
///
/// # Errors
/// There is no such device, or weights, shards or labels cannot be read or do not fit.
pub fn plan(
    config: &dyn TaskConfig,
    options: &Options,
    gpus: Option<usize>,
    mut report: impl FnMut(Planned),
) -> Result<()> {
    let rank_info = environment::of_this_process()?;
    setup::answer_quit(rank_info.as_ref())?;
    let run = &config.train().run;
    let rank_info = rank_info.unwrap_or_else(RankInfo::alone);
    let ranks = rank_info.world_size;
    let device = device::choose(run, &rank_info)?;
    device::tell(run, &config.train().data, device);
    report(Planned::Networks(config.networks()));
    report(Planned::Notes(config.notes()));
    if let Some(gpus) = gpus {
        report(Planned::Cost(Cost::of(config, gpus)));
    }
    config.check_weights()?;
    let mut config = config.boxed();
    let begun = match &options.resume {
        Resume::Never => None,
        Resume::Auto => checkpoint::newest(&config.train().run.dir)?,
        Resume::From(folder) => Some(Checkpoint::open(folder)?),
    };
    setup::settle_global_batch(config.train_mut(), ranks, begun.as_ref())?;
    let train = config.train();
    let dataset = open_dataset(train)?;
    report(Planned::Length(length(train, &dataset)));
    if let Some(Checkpoint { manifest, .. }) = &begun {
        report(Planned::Begun(train.run.dir.clone(), manifest.step));
        let mut now = identity(&*config)?;
        go_on(&mut now, manifest, options.accept_changes)?;
        compare_data(&mut now, manifest, &dataset, options.accept_changes)?;
    }
    evaluation::check(train)
}

fn length(config: &TrainConfig, dataset: &Dataset) -> Length {
    let global_batch = config.data.images_per_step();
    let schedule = schedule(config, dataset);
    let (samples, steps) = (dataset.sample_count(), schedule.total_steps());
    Length {
        samples,
        shards: dataset.shard_count(),
        steps,
        global_batch,
        batch: config.data.batch_size,
        passes: steps as f64 * global_batch as f64 / samples as f64,
        learning_rate: schedule.peak,
    }
}

/// The schedule of a run on this data set.
pub(super) fn schedule(config: &TrainConfig, dataset: &Dataset) -> Schedule {
    let global_batch = config.data.images_per_step();
    Schedule::new(&config.optimizer, &config.schedule, global_batch, dataset.sample_count())
}
