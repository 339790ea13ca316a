//! The log of a run, kept by its first process: metrics files, progress line and images.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tch::Device;
use tracing::warn;

use super::metrics::MetricsLog;
use super::run::Run;
use crate::artifacts::{EvaluationLine, SlowestRank, StepMetrics, TraineeMetrics, paths};
use crate::config::LogConfig;
use crate::durable;
use crate::native::{Peak, describe};
use crate::ui::progress::Progress;

/// The metrics files and the progress line.
pub struct RunLog {
    log: MetricsLog,
    /// The run's directory.
    path: PathBuf,
    progress: Progress,
    every: u64,
    global_batch: usize,
    /// In words.
    device: String,
    /// Floating-point operations of a step of one process, where they are counted.
    flops: Option<f64>,
    peak: Option<Peak>,
    /// Since the last line of the log.
    steps: u32,
    seconds: f64,
    data_wait: f64,
    exchange_wait: f64,
    /// Sums of what was found of each trainee.
    trainees: Vec<TraineeMetrics>,
    slowest: Option<SlowestRank>,
    /// What was found of the last step, where its line is still to come.
    unwritten: Option<StepMetrics>,
}

impl RunLog {
    /// Opens the run's files for what comes after `step`.
    pub fn open(run: &Run, step: u64) -> Result<Self> {
        take_back(&paths::reconstructions(run.path), step)?;
        let trainees = run.objective.trainees().iter();
        let names: Vec<String> = trainees.map(|trainee| trainee.name.clone()).collect();
        let (total, images) = (run.schedule.total_steps(), run.config.data.images_per_step());
        let device = run.group.device();
        let log =
            Self::of_trainees(run.path, &run.config.log, &names, step..total, (images, device));
        let flops = run.flops_per_image * images as f64 / run.group.world_size() as f64;
        Ok(Self { flops: Some(flops), ..log? })
    }

    /// Opens the files in `path` for what comes of so many `steps` of `global_batch` images, in which
    /// trainees of these `names` are trained on `device`.
    pub fn of_trainees(
        path: &Path,
        config: &LogConfig,
        names: &[String],
        steps: Range<u64>,
        (global_batch, device): (usize, Device),
    ) -> Result<Self> {
        Ok(Self {
            log: MetricsLog::open(path, config.tensorboard, steps.start)?,
            path: path.to_path_buf(),
            progress: Progress::new(steps.end, steps.start + 1, names, config.every),
            every: config.every,
            global_batch,
            device: describe(device),
            flops: None,
            peak: Peak::of(device),
            steps: 0,
            seconds: 0.0,
            data_wait: 0.0,
            exchange_wait: 0.0,
            trainees: Vec::new(),
            slowest: None,
            unwritten: None,
        })
    }

    /// Shows numbers with their tags in TensorBoard.
    pub fn scalars(&mut self, step: u64, scalars: &[(String, f64)]) -> Result<()> {
        self.log.scalars(step, scalars)
    }

    /// Records figures of what is trained.
    pub fn evaluation(&mut self, line: &EvaluationLine) -> Result<()> {
        self.log.evaluation(line)
    }

    /// Records a step that took this many `seconds`. What is shown and written of trainees is the mean over the
    /// steps since the last line.
    pub fn add(&mut self, mut metrics: StepMetrics, seconds: f64, is_last: bool) -> Result<()> {
        self.steps += 1;
        self.seconds += seconds;
        self.data_wait += metrics.data_wait_seconds;
        self.exchange_wait += metrics.exchange_wait_seconds.unwrap_or(0.0);
        metrics.step_seconds = seconds;
        self.tell_rates(&mut metrics);
        add_up(&mut self.trainees, &metrics.trainees);
        metrics.trainees = self.trainees.iter().map(|sum| divided(sum, self.steps)).collect();
        self.progress.update(&metrics);
        let is_due = metrics.step.is_multiple_of(self.every) || is_last;
        self.unwritten = Some(metrics);
        if is_due { self.write() } else { Ok(()) }
    }

    /// Writes the line of the steps since the last one before their state is saved: whoever goes on from it, perhaps
    /// after a kill, knows nothing of them.
    pub fn before_save(&mut self) -> Result<()> {
        self.progress.line();
        self.write()
    }

    /// Writes the line of the steps since the last one, where there are any.
    fn write(&mut self) -> Result<()> {
        let Some(mut metrics) = self.unwritten.take() else { return Ok(()) };
        let steps = f64::from(self.steps);
        metrics.step_seconds = self.seconds / steps;
        metrics.data_wait_seconds = self.data_wait / steps;
        metrics.exchange_wait_seconds =
            metrics.exchange_wait_seconds.map(|_| self.exchange_wait / steps);
        self.tell_rates(&mut metrics);
        metrics.device = Some(self.device.clone());
        metrics.slowest_rank = self.slowest.take();
        (self.steps, self.seconds, self.data_wait, self.exchange_wait) = (0, 0.0, 0.0, 0.0);
        self.trainees.clear();
        self.log.write(&metrics)
    }

    /// What follows from the time of a step.
    fn tell_rates(&self, metrics: &mut StepMetrics) {
        metrics.images_per_second = self.global_batch as f64 / metrics.step_seconds;
        metrics.flops_per_second = self.flops.map(|flops| flops / metrics.step_seconds);
        let flops = metrics.flops_per_second;
        metrics.mfu = flops.zip(self.peak).map(|(flops, peak)| flops / peak.flops_per_s);
    }

    /// Records whom the others waited for most up to `step`, and says so if it is a straggler.
    pub fn slowest(&mut self, step: u64, slowest: SlowestRank) {
        let SlowestRank { rank, host, steps, seconds, median_seconds, part } = &slowest;
        if slowest.is_straggler() {
            warn!(
                step,
                "straggler: rank {rank} ({host}) is {:.0} % slower than the median rank, mostly in its \
                 {part}: {seconds:.4} s of a step against {median_seconds:.4} s, over {steps} steps",
                100.0 * slowest.excess()
            );
        }
        self.slowest = Some(slowest);
    }

    /// Keeps an encoded PNG of what the models do after `step`.
    pub fn image(&mut self, step: u64, png: &[u8]) -> Result<()> {
        let images = paths::reconstructions(&self.path);
        std::fs::create_dir_all(&images)
            .with_context(|| format!("cannot create {}", images.display()))?;
        durable::write(&paths::reconstruction(&self.path, step), png)?;
        self.log.image(step, paths::RECONSTRUCTIONS, png)
    }

    /// Nothing more is to come. Steps that no line tells of yet, because the run stops between two, get theirs: who
    /// goes on knows nothing of them.
    pub fn finish(mut self) {
        if let Err(error) = self.write() {
            warn!("the last steps are not in the metrics: {error:#}");
        }
        self.progress.finish();
    }
}

/// Adds what was found of each trainee to `sums`.
fn add_up(sums: &mut Vec<TraineeMetrics>, found: &[TraineeMetrics]) {
    if sums.is_empty() {
        sums.extend_from_slice(found);
        return;
    }
    for (sum, found) in sums.iter_mut().zip(found) {
        sum.loss += found.loss;
        sum.grad_norm += found.grad_norm;
        sum.terms.iter_mut().zip(&found.terms).for_each(|(sum, (_, value))| sum.1 += value);
    }
}

/// The means of so many `steps`.
fn divided(sum: &TraineeMetrics, steps: u32) -> TraineeMetrics {
    let steps = f64::from(steps);
    let mut mean = sum.clone();
    mean.loss /= steps;
    mean.grad_norm /= steps;
    mean.terms.iter_mut().for_each(|(_, value)| *value /= steps);
    mean
}

/// Removes images of steps after `step`, which an earlier process took and this one takes again.
fn take_back(folder: &Path, step: u64) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(paths::step_of_reconstruction);
        if number.is_some_and(|number| number > step) {
            std::fs::remove_file(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}
