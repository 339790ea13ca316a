//! `distill bench step`: how fast this machine trains.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use indicatif::HumanBytes;
use serde::Serialize;
use tch::Device;

use crate::artifacts::{Stream, TraineeMetrics};
use crate::cli::data::print;
use crate::config::{DeviceChoice, Precision, TrainConfig};
use crate::data::RankBatches;
use crate::dist::{ProcessGroup, RankInfo, environment};
use crate::draws::{Draws, Purpose};
use crate::native::{Gpu, PeakMemory, guard};
use crate::run::{device, models, setup};
use crate::tasks::AnyConfig;
use crate::tasks::{distill, pretrain};
use crate::train::clock::{Phase, StepClock};
use crate::train::objective::Objective;
use crate::train::prefetch::{BatchSource, DevicePrefetcher, HostBatch};
use crate::train::schedule::Schedule;
use crate::train::step::{self, PendingStep};
use crate::train::{Run, State, explain_memory};

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
    #[arg(long, value_parser = ["cpu", "cuda"])]
    device: Option<String>,
    /// Steps to measure
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u64).range(1..=10_000))]
    steps: u64,
    /// Steps before them that are not measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    warmup: u32,
    /// What the device could do at most, for the model FLOPs utilisation (MFU): the maker's figure for
    /// dense bf16; left out, by the GPU's name
    #[arg(long, value_parser = PEAKS.map(|peak| peak.name))]
    peak: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Most that a GPU does by its maker's data sheet, in dense bf16 products.
#[derive(Debug, Clone, Copy, Serialize)]
struct Peak {
    name: &'static str,
    flops_per_s: f64,
}

/// The first all of whose words are in a GPU's name is taken for it.
const PEAKS: [Peak; 6] = [
    Peak { name: "H100-PCIe", flops_per_s: 756e12 },
    Peak { name: "H100", flops_per_s: 989e12 },
    Peak { name: "H200", flops_per_s: 989e12 },
    Peak { name: "A100", flops_per_s: 312e12 },
    Peak { name: "B200", flops_per_s: 2250e12 },
    Peak { name: "L40S", flops_per_s: 362e12 },
];

/// What was measured: medians of the steps, but for the rate, which is over all of them.
#[derive(Debug, Serialize)]
struct StepReport {
    device: &'static str,
    device_name: String,
    precision: Precision,
    /// Images of one process in one step.
    batch_size: usize,
    processes: usize,
    steps: u64,
    seconds: f64,
    /// Over all processes.
    images_per_s: f64,
    step_ms: f64,
    /// Making what is learned from: the teacher's pass, or an autoencoder's targets.
    teacher_ms: f64,
    /// The encoders that are trained.
    students: Vec<StudentReport>,
    optimizer_ms: f64,
    data_wait_ms: f64,
    /// Part of the step in which the device only waited for gradients of other processes.
    communication_ms: f64,
    flops_per_image: f64,
    peak: Option<Peak>,
    mfu: Option<f64>,
    /// Taken by tensors on a GPU, by the process on a CPU.
    peak_memory_bytes: Option<u64>,
    /// Held by libtorch on a GPU.
    peak_memory_reserved_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct StudentReport {
    name: String,
    forward_ms: f64,
    backward_ms: f64,
    /// Of the last step.
    loss: f64,
}

/// Runs the command.
///
/// # Errors
/// What the user has to know, in a line.
pub fn run(args: &StepArgs) -> Result<()> {
    let mut config = AnyConfig::load(&args.config, &args.set)?;
    match args.device.as_deref() {
        Some("cpu") => config.train_mut().run.device = DeviceChoice::Cpu,
        Some(_) => config.train_mut().run.device = DeviceChoice::Cuda,
        None => {}
    }
    let rank_info = environment::of_this_process()?;
    let choice = &config.train().run;
    let device = device::choose(choice, &rank_info.clone().unwrap_or_else(RankInfo::alone))?;
    if let AnyConfig::Distill(config) = &config {
        device::require_abilities(config, device)?;
    }
    let peak = peak_of(args.peak.as_deref(), device);
    let group = setup::join(rank_info, config.train(), device)?;
    random_and_alone(&mut config, group.world_size());
    let report = guard(|| measure(args, &config, &group, device, peak))
        .map_err(|error| explain_memory(error, config.train()))
        .inspect_err(|error| group.announce(error))?;
    let is_first = group.is_first();
    group.leave()?;
    match (is_first, args.json) {
        (false, _) => Ok(()),
        (true, true) => print(&(serde_json::to_string(&report)? + "\n")),
        (true, false) => print(&report.table()),
    }
}

/// Weights are drawn, and a step is one batch of each process.
fn random_and_alone(config: &mut AnyConfig, processes: usize) {
    match config {
        AnyConfig::Distill(config) => {
            config.teacher.weights = models::RANDOM.into();
            for student in &mut config.students {
                student.weights = models::RANDOM.into();
            }
        }
        AnyConfig::Pretrain(config) => config.encoder.weights = models::RANDOM.into(),
    }
    let data = &mut config.train_mut().data;
    data.global_batch_size = Some(data.batch_size * processes);
}

/// The models of the config, and the operations of a step for each image.
fn models_of(
    config: &AnyConfig,
    group: &ProcessGroup,
    device: Device,
) -> Result<(Box<dyn Objective>, f64)> {
    Ok(match config {
        AnyConfig::Distill(config) => {
            let teacher = models::load_teacher(config, group, device)?;
            let students = models::students(config, teacher, device, true)?;
            (Box::new(students), distill::flops_per_image(config))
        }
        AnyConfig::Pretrain(config) => {
            let autoencoder = models::autoencoder(config, device, true)?;
            (Box::new(autoencoder), pretrain::flops_per_image(config))
        }
    })
}

/// The steps that were taken, and the losses of the last one.
struct Taken {
    steps: Vec<PendingStep>,
    students: Vec<TraineeMetrics>,
}

/// Takes so many steps, as a training run does, and waits for the last one's end.
fn take(
    count: u64,
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
        positions: 0..count * global_batch as u64,
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
        drawing: None,
    };
    let images = Synthetic::new(config, batches.ranges());
    let mut prefetcher = DevicePrefetcher::new(Box::new(images), &config.data, device)?;
    let mut steps: Vec<PendingStep> = Vec::new();
    for _ in 0..count {
        let pending = step::begin(&run, &mut state, &mut prefetcher, Some(StepClock::new(device)))?;
        // A step late, as in training.
        if let Some(before) = steps.last() {
            before.read(&run, &prefetcher)?;
        }
        steps.push(pending);
    }
    let last = steps.last().context("no step was taken")?.read(&run, &prefetcher)?;
    group.synchronize()?;
    Ok(Taken { steps, students: last.metrics.trainees })
}

fn measure(
    args: &StepArgs,
    config: &AnyConfig,
    group: &ProcessGroup,
    device: Device,
    peak: Option<Peak>,
) -> Result<StepReport> {
    let (objective, flops) = models_of(config, group, device)?;
    let config = config.train();
    let count = u64::from(args.warmup) + args.steps;
    let Taken { steps, students } = take(count, config, group, &*objective)?;
    let times = Times::of(&steps[args.warmup as usize..], students.len())?;
    let global_batch = config.data.images_per_step();
    let images_per_s = args.steps as f64 * global_batch as f64 / times.seconds;
    let memory = PeakMemory::of(device);
    let per_device = images_per_s * flops / group.world_size() as f64;
    Ok(StepReport {
        device: if device == Device::Cpu { "cpu" } else { "cuda" },
        device_name: device_name(device),
        precision: config.run.precision,
        batch_size: config.data.batch_size,
        processes: group.world_size(),
        steps: args.steps,
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
    fn of(steps: &[PendingStep], students: usize) -> Result<Self> {
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

impl StepReport {
    fn table(&self) -> String {
        let mut lines = vec![format!(
            "{:.1} images/s, {:.1} ms a step of {} images in {} ({})",
            self.images_per_s,
            self.step_ms,
            self.batch_size * self.processes,
            if self.precision == Precision::Bf16 { "bf16" } else { "fp32" },
            self.device_name
        )];
        let mut row = |what: &str, ms: f64| {
            lines.push(format!("{what:<30} {ms:>9.1} ms {:>5.1} %", 100.0 * ms / self.step_ms));
        };
        row("waiting for images", self.data_wait_ms);
        row("teacher or targets", self.teacher_ms);
        for student in &self.students {
            row(&format!("{}, forward", student.name), student.forward_ms);
            row(&format!("{}, backward", student.name), student.backward_ms);
        }
        row("waiting for gradients", self.communication_ms);
        row("optimizer", self.optimizer_ms);
        let flops = self.images_per_s * self.flops_per_image / self.processes as f64;
        let share = match (self.mfu, self.peak) {
            (Some(mfu), Some(peak)) => {
                let peak_flops = peak.flops_per_s / 1e12;
                format!(", MFU {:.1} % of {peak_flops:.0} ({})", 100.0 * mfu, peak.name)
            }
            _ => String::new(),
        };
        lines.push(format!(
            "{:.2} GFLOP an image by the recipe, {:.3} TFLOP/s{share}",
            self.flops_per_image / 1e9,
            flops / 1e12
        ));
        if let Some(bytes) = self.peak_memory_bytes {
            lines.push(format!("peak memory {}", HumanBytes(bytes)));
        }
        lines.join("\n") + "\n"
    }
}

/// The peak of this name, or that of the device, where it is known.
fn peak_of(name: Option<&str>, device: Device) -> Option<Peak> {
    if let Some(name) = name {
        return PEAKS.into_iter().find(|peak| name == peak.name);
    }
    let name = Gpu::of(device).ok()?.name.to_lowercase();
    let fits = |peak: &Peak| peak.name.to_lowercase().split('-').all(|word| name.contains(word));
    PEAKS.into_iter().find(fits)
}

fn device_name(device: Device) -> String {
    if device != Device::Cpu {
        return Gpu::of(device).map_or_else(|_| "a GPU".into(), |gpu| gpu.name);
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("CPU, {} threads on {cores} cores", tch::get_num_threads())
}

/// Random images, always there.
struct Synthetic {
    bytes: Vec<u8>,
    image_bytes: usize,
    ranges: Box<dyn Iterator<Item = Range<u64>>>,
}

impl Synthetic {
    fn new(config: &TrainConfig, ranges: impl Iterator<Item = Range<u64>> + 'static) -> Self {
        let image_bytes = 3 * config.data.input_size.pow(2);
        let mut draws = Draws::new(config.seed, Purpose::Crop, 0, 0);
        let draw = |_| (draws.uniform() * 256.0) as u8;
        let bytes = (0..image_bytes * config.data.batch_size).map(draw).collect();
        Self { bytes, image_bytes, ranges: Box::new(ranges) }
    }
}

impl BatchSource for Synthetic {
    fn is_ready(&mut self) -> bool {
        true
    }

    fn is_ready_within(&mut self, _: Duration) -> bool {
        true
    }

    fn next(&mut self, take: &mut dyn FnMut(HostBatch) -> Result<()>) -> Result<bool> {
        let Some(positions) = self.ranges.next() else { return Ok(false) };
        let length = positions.clone().count() * self.image_bytes;
        take(HostBatch { bytes: &self.bytes[..length], positions, failed: 0 })?;
        Ok(true)
    }
}
