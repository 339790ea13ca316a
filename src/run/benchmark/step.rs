//! How fast this machine trains.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use tch::Device;

use super::synthetic::Synthetic;
use crate::artifacts::{Stream, TraineeMetrics};
use crate::config::{Precision, TrainConfig};
use crate::data::RankBatches;
use crate::dist::{ProcessGroup, RankInfo, environment};
use crate::native::{Gpu, Peak, PeakMemory, Profiler, guard};
use crate::run::{device, setup};
use crate::tasks::{Setting, TaskConfig};
use crate::train::clock::{Phase, StepClock};
use crate::train::objective::Objective;
use crate::train::prefetch::DevicePrefetcher;
use crate::train::schedule::Schedule;
use crate::train::step::{self, PendingStep};
use crate::train::{Run, State, explain_memory};

/// What was measured: medians of the steps, but for the rate, which is over all of them.
#[derive(Debug, Serialize)]
pub struct StepReport {
    pub device: &'static str,
    pub device_name: String,
    pub precision: Precision,
    /// Images of one process in one step.
    pub batch_size: usize,
    pub processes: usize,
    pub steps: u64,
    pub seconds: f64,
    /// Over all processes.
    pub images_per_s: f64,
    pub step_ms: f64,
    /// Making what is learned from: the teacher's pass, or an autoencoder's targets.
    pub teacher_ms: f64,
    /// The encoders that are trained.
    pub students: Vec<StudentReport>,
    pub optimizer_ms: f64,
    pub data_wait_ms: f64,
    /// Part of the step in which the device only waited for gradients of other processes.
    pub communication_ms: f64,
    pub flops_per_image: f64,
    pub peak: Option<Peak>,
    pub mfu: Option<f64>,
    /// Taken by tensors on a GPU, by the process on a CPU.
    pub peak_memory_bytes: Option<u64>,
    /// Held by libtorch on a GPU.
    pub peak_memory_reserved_bytes: Option<u64>,
}

/// One of the encoders that are trained.
#[derive(Debug, Serialize)]
pub struct StudentReport {
    pub name: String,
    pub forward_ms: f64,
    pub backward_ms: f64,
    /// Of the last step.
    pub loss: f64,
}

/// How many steps are taken, and what they are compared with.
pub struct StepOptions<'a> {
    /// Steps before the measured ones.
    pub warmup: u32,
    /// Steps to measure.
    pub steps: u64,
    /// Name of a [`Peak`]; none: by the GPU's name.
    pub peak: Option<&'a str>,
    /// Where the first process writes a trace of two more steps, which are not measured.
    pub profile: Option<&'a Path>,
}

/// Takes the steps that a run of `config` takes, with random weights and images. Under a launcher all
/// its processes call this, and the first one is given what was measured.
pub fn steps(mut config: Box<dyn TaskConfig>, options: &StepOptions) -> Result<Option<StepReport>> {
    let rank_info = environment::of_this_process()?;
    let choice = &config.train().run;
    let device = device::choose(choice, &rank_info.clone().unwrap_or_else(RankInfo::alone))?;
    config.require_abilities(device)?;
    let group = setup::join(rank_info, config.train(), device)?;
    // A step is one batch of each process.
    config.draw_weights();
    let data = &mut config.train_mut().data;
    data.global_batch_size = Some(data.batch_size * group.world_size());
    let report = guard(|| measure(options, &*config, &group, device))
        .map_err(|error| explain_memory(error, config.train()))
        .inspect_err(|error| group.announce(error))?;
    let is_first = group.is_first();
    group.leave()?;
    Ok(is_first.then_some(report))
}

/// Steps of which a trace is written.
const PROFILED: u64 = 2;

/// Measured steps, and the losses of the last one.
struct Taken {
    steps: Vec<PendingStep>,
    students: Vec<TraineeMetrics>,
}

/// Takes this many steps, as a training run does, and waits for the end of the last one; then some more for a
/// trace.
fn take(
    (count, profile): (u64, Option<&Path>),
    config: &TrainConfig,
    group: &ProcessGroup,
    objective: &dyn Objective,
) -> Result<Taken> {
    let device = group.device();
    let global_batch = config.data.images_per_step();
    let stream = Stream {
        seed: config.seed,
        dataset: "synthetic".into(),
        shuffle: config.data.shuffle,
        global_batch_size: global_batch,
    };
    let mut state = State::new(group, objective, config, stream)?;
    // An epoch of a thousand steps where the config leaves it to the data set.
    let samples = 1000 * global_batch as u64;
    let schedule = Schedule::new(&config.optimizer, &config.schedule, global_batch, samples);
    let batches = RankBatches {
        positions: 0..(count + PROFILED) * global_batch as u64,
        global_batch: global_batch as u64,
        batch: config.data.batch_size as u64,
        rank: group.rank() as u64,
        world_size: group.world_size() as u64,
    };
    let run = Run {
        config,
        path: Path::new(""),
        group,
        objective,
        schedule: &schedule,
        batches_per_step: batches.per_step(),
        flops_per_image: 0.0,
        profiled: None,
        drawing: None,
        evaluating: None,
    };
    let images = Synthetic::new(config, batches.ranges());
    let mut prefetcher = DevicePrefetcher::new(Box::new(images), &config.data, device)?;
    let mut steps: Vec<PendingStep> = Vec::new();
    let mut take = || -> Result<()> {
        let pending = step::begin(&run, &mut state, &mut prefetcher, Some(StepClock::new(device)))?;
        // A step late, as in training.
        if let Some(before) = steps.last() {
            before.read(&run, &prefetcher)?;
        }
        steps.push(pending);
        Ok(())
    };
    (0..count).try_for_each(|_| take())?;
    group.synchronize()?;
    if let Some(file) = profile {
        let profiler = group.is_first().then(|| Profiler::begin(device)).transpose()?;
        (0..PROFILED).try_for_each(|_| take())?;
        group.synchronize()?;
        profiler.map_or(Ok(()), |profiler| profiler.write(file))?;
    }
    steps.truncate(count as usize);
    let last = steps.last().context("no step was taken")?.read(&run, &prefetcher)?;
    Ok(Taken { steps, students: last.metrics.trainees })
}

fn measure(
    options: &StepOptions,
    config: &dyn TaskConfig,
    group: &ProcessGroup,
    device: Device,
) -> Result<StepReport> {
    let peak = match options.peak {
        Some(name) => Peak::named(name),
        None => Peak::of(device),
    };
    let models = config.models(&Setting { group, device, images: None }, true)?;
    let flops = config.flops_per_image();
    let config = &config.decoded();
    let count = u64::from(options.warmup) + options.steps;
    let Taken { steps, students } = take((count, options.profile), config, group, &*models)?;
    let times = Times::from_steps(&steps[options.warmup as usize..], students.len())?;
    let global_batch = config.data.images_per_step();
    let images_per_s = options.steps as f64 * global_batch as f64 / times.seconds;
    let memory = PeakMemory::of(device);
    let per_device = images_per_s * flops / group.world_size() as f64;
    Ok(StepReport {
        device: if device == Device::Cpu { "cpu" } else { "cuda" },
        device_name: device_name(device),
        precision: config.run.precision,
        batch_size: config.data.batch_size,
        processes: group.world_size(),
        steps: options.steps,
        seconds: times.seconds,
        images_per_s,
        step_ms: times.step,
        teacher_ms: times.teacher,
        students: students
            .into_iter()
            .zip(times.students)
            .map(|(TraineeMetrics { name, loss, .. }, [forward_ms, backward_ms])| StudentReport {
                name,
                forward_ms,
                backward_ms,
                loss,
            })
            .collect(),
        optimizer_ms: times.optimizer,
        data_wait_ms: times.data,
        communication_ms: times.communication,
        flops_per_image: flops,
        peak,
        mfu: peak.map(|peak| per_device / peak.flops_per_s),
        peak_memory_bytes: memory.map(|peak| peak.used),
        peak_memory_reserved_bytes: memory.map(|peak| peak.held),
    })
}

/// Milliseconds, medians of the steps; `seconds` is from the first one's begin to the last one's end.
struct Times {
    seconds: f64,
    step: f64,
    data: f64,
    teacher: f64,
    /// Forward and backward.
    students: Vec<[f64; 2]>,
    communication: f64,
    optimizer: f64,
}

impl Times {
    fn from_steps(steps: &[PendingStep], students: usize) -> Result<Self> {
        let spans = steps
            .iter()
            .map(|step| step.clock.as_ref().context("no clock")?.seconds(&step.end))
            .collect::<Result<Vec<_>>>()?;
        let middle = |counts: &dyn Fn(Phase) -> bool| {
            let of_step = |spans: &Vec<(Phase, f64)>| {
                1e3 * spans.iter().filter(|(phase, _)| counts(*phase)).map(|(_, s)| s).sum::<f64>()
            };
            median(spans.iter().map(of_step).collect())
        };
        let is = |phase: Phase| middle(&move |other| other == phase);
        Ok(Self {
            seconds: from_begin_to_end(steps)?,
            step: middle(&|_| true),
            data: is(Phase::Data),
            teacher: is(Phase::Targets),
            students: (0..students)
                .map(|index| [is(Phase::Forward(index)), is(Phase::Backward(index))])
                .collect(),
            communication: is(Phase::Exchange),
            optimizer: is(Phase::Update),
        })
    }
}

/// Of all steps, with what comes between them.
fn from_begin_to_end(steps: &[PendingStep]) -> Result<f64> {
    let begun = steps.first().and_then(|step| step.clock.as_ref()?.begun());
    let ends = begun.zip(steps.last().map(|step| &step.end));
    let (begun, end) = ends.context("no step was measured")?;
    begun.seconds_until(end)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

fn device_name(device: Device) -> String {
    if device != Device::Cpu {
        return Gpu::of(device).map_or_else(|_| "a GPU".into(), |gpu| gpu.name);
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("CPU, {} threads on {cores} cores", tch::get_num_threads())
}
