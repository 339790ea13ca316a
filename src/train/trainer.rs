//! The training loop, the same for every objective.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tch::{Kind, Tensor};
use tracing::{info, warn};

use super::checkpoint::{Checkpoint, Saver, Snapshot, Stream};
use super::feed::Feed;
use super::metrics::{MetricsLog, StepMetrics, StudentMetrics};
use super::optimizer::AdamW;
use super::progress::Progress;
use super::schedule::Schedule;
use super::signals::{self, Signal};
use super::state::StudentState;
use crate::config::{CheckpointConfig, Config, Distance};
use crate::dist::Alone;
use crate::native;
use crate::objective::{Losses, Objective};

/// How long signals may go unnoticed while data are waited for.
const SIGNAL_PATIENCE: Duration = Duration::from_millis(200);

/// Optimizers and counters: with the trainees' weights, all that a checkpoint holds.
pub struct State {
    pub optimizers: Vec<AdamW>,
    /// Optimizer steps done.
    pub step: u64,
    /// Samples of the global stream consumed.
    pub position: u64,
    pub stream: Stream,
}

/// How training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Finished,
    /// A signal asked for an end; the state is saved.
    Stopped(Signal),
}

impl State {
    /// The state before the first step.
    pub fn new(objective: &dyn Objective, config: &Config, stream: Stream) -> Self {
        let optimizers = objective
            .trainees()
            .iter()
            .map(|trainee| AdamW::new(&trainee.parameters, &config.optimizer))
            .collect();
        Self { optimizers, step: 0, position: 0, stream }
    }

    /// Continues from a checkpoint. A stream that is not the checkpoint's is warned about: the
    /// run then goes on, but not on the samples that it would have seen.
    ///
    /// # Errors
    /// The checkpoint does not fit the trainees.
    pub fn restore(&mut self, objective: &dyn Objective, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.restore(objective.trainees(), &mut self.optimizers)?;
        let manifest = &checkpoint.manifest;
        (self.step, self.position) = (manifest.step, manifest.position);
        let (then, now) = (&manifest.stream, &self.stream);
        for (what, differs) in [
            ("seed", then.seed != now.seed),
            ("data set", then.dataset != now.dataset),
            ("shuffle", then.shuffle != now.shuffle),
            ("global batch size", then.global_batch_size != now.global_batch_size),
        ] {
            if differs {
                warn!("the {what} is not the checkpoint's: from here on other samples are seen");
            }
        }
        info!(step = self.step, "continuing from {}", checkpoint.folder.display());
        Ok(())
    }

    fn save(&self, saver: &mut Saver, objective: &dyn Objective) -> Result<()> {
        let (step, position, stream) = (self.step, self.position, &self.stream);
        let trainees = objective.trainees().iter().zip(&self.optimizers);
        let students = trainees.map(|(trainee, own)| StudentState::of(trainee, own)).collect();
        saver.save(&Snapshot { step, position, stream, students }, &|| Ok(()))
    }
}

/// Trains until the schedule ends or a signal asks to stop, saving as configured.
///
/// # Errors
/// Data, device or disk fail, or a loss is not finite; the last checkpoint stays.
pub fn train(
    config: &Config,
    run: &Path,
    objective: &dyn Objective,
    schedule: &Schedule,
    state: &mut State,
    feed: &mut Feed,
) -> Result<Outcome> {
    let CheckpointConfig { keep, writers, .. } = config.checkpoint;
    let mut saver = Saver::new(run, keep, Arc::new(Alone::default()), writers);
    let outcome = take_steps(config, run, objective, schedule, state, feed, &mut saver);
    // Also where training has failed: the save under way is from before that.
    let saved = saver.finish(&|| Ok(()));
    let outcome = outcome?;
    saved.map(|()| outcome)
}

fn take_steps(
    config: &Config,
    run: &Path,
    objective: &dyn Objective,
    schedule: &Schedule,
    state: &mut State,
    feed: &mut Feed,
    saver: &mut Saver,
) -> Result<Outcome> {
    let total = schedule.total_steps();
    let global_batch = state.stream.global_batch_size;
    let accumulation = global_batch / config.data.batch_size;
    let names: Vec<String> = objective.trainees().iter().map(|t| t.name.clone()).collect();
    let mut log = MetricsLog::open(run, config.log.tensorboard, state.step)?;
    let mut progress = Progress::new(total, state.step + 1, &names, config.log.every);
    let mut since_log = Interval::begin();
    let mut saved = state.step;
    let mut stopped = None;

    'steps: while state.step < total {
        let since_step = Interval::begin();
        saver.check()?;
        let learning_rate = schedule.learning_rate(state.step);
        let mut losses = Vec::new();
        for _ in 0..accumulation {
            // Half a step is given up rather than finished: with many accumulation steps it could
            // outlast the time that a scheduler grants.
            // Nor is a batch waited for that may never come, as when a network is down.
            loop {
                stopped = signals::stop_requested();
                if stopped.is_some() {
                    break 'steps;
                }
                if feed.is_ready_within(SIGNAL_PATIENCE) {
                    break;
                }
            }
            let batch = feed.next_batch()?;
            losses.push(objective.accumulate(&batch, 1.0 / accumulation as f64, &mut ())?);
        }
        let norms = state.optimizers.iter().map(AdamW::gradient_norm).collect::<Result<_>>()?;
        let students = read(&names, &losses, norms, config)?;
        require_finite(state.step + 1, &students.metrics)?;
        for (optimizer, norm) in state.optimizers.iter_mut().zip(&students.norms) {
            optimizer.update(learning_rate, norm)?;
        }
        state.step += 1;
        state.position += global_batch as u64;

        let waited = feed.take_waited().as_secs_f64();
        since_log.add_step(waited);
        let mut metrics = StepMetrics {
            step: state.step,
            epoch: schedule.epoch(state.step),
            learning_rate,
            images_seen: state.position,
            images_per_second: global_batch as f64 / since_step.seconds(),
            data_wait_seconds: waited,
            exchange_wait_seconds: None,
            step_seconds: since_step.seconds(),
            students: students.metrics,
            peak_memory_bytes: feed.peak_memory(),
            failed_pictures: feed.failed(),
        };
        progress.update(&metrics);
        if state.step.is_multiple_of(config.log.every) || state.step == total {
            since_log.average_into(&mut metrics, global_batch);
            log.write(&metrics)?;
            since_log = Interval::begin();
        }
        if state.step.is_multiple_of(config.checkpoint.every) {
            state.save(saver, objective)?;
            saved = state.step;
        }
    }
    if saved < state.step {
        state.save(saver, objective)?;
    }
    progress.finish();
    Ok(stopped.map_or(Outcome::Finished, Outcome::Stopped))
}

/// Wall time and data waiting over some steps.
struct Interval {
    started: Instant,
    steps: u32,
    waited: f64,
}

impl Interval {
    fn begin() -> Self {
        Self { started: Instant::now(), steps: 0, waited: 0.0 }
    }

    fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn add_step(&mut self, waited: f64) {
        self.steps += 1;
        self.waited += waited;
    }

    fn average_into(&self, metrics: &mut StepMetrics, global_batch: usize) {
        let steps = f64::from(self.steps);
        metrics.step_seconds = self.seconds() / steps;
        metrics.data_wait_seconds = self.waited / steps;
        metrics.images_per_second = global_batch as f64 / metrics.step_seconds;
    }
}

/// A step's numbers on the host, and the gradient norms that stay on the device for clipping.
struct StudentReport {
    metrics: Vec<StudentMetrics>,
    norms: Vec<Tensor>,
}

/// Averages losses over accumulation steps and brings them to the host, with the gradient norms,
/// in one copy.
fn read(
    names: &[String],
    losses: &[Vec<Losses>],
    norms: Vec<Tensor>,
    config: &Config,
) -> Result<StudentReport> {
    let metrics = native::guard(|| {
        let mean = |values: Vec<&Tensor>| Tensor::stack(&values, 0).mean(Kind::Float);
        let mut scalars = Vec::new();
        for (student, norm) in norms.iter().enumerate() {
            let column = || losses.iter().map(move |micro| &micro[student]);
            scalars.push(mean(column().map(|losses| &losses.total).collect()));
            scalars.push(mean(column().map(|losses| &losses.class).collect()));
            scalars.push(mean(column().map(|losses| &losses.patch).collect()));
            scalars.push(norm.shallow_clone());
        }
        let values = Vec::<f32>::try_from(Tensor::stack(&scalars, 0))?;
        let on = |distance, value: f32| (distance != Distance::None).then_some(f64::from(value));
        let rows = values.chunks_exact(4).zip(names);
        Ok(rows
            .map(|(row, name)| StudentMetrics {
                name: name.clone(),
                loss: f64::from(row[0]),
                loss_class: on(config.loss.class, row[1]),
                loss_patch: on(config.loss.patch, row[2]),
                grad_norm: f64::from(row[3]),
            })
            .collect())
    })?;
    Ok(StudentReport { metrics, norms })
}

/// A loss or gradient that is no number would spoil the weights, so it ends the run before the
/// update.
fn require_finite(step: u64, students: &[StudentMetrics]) -> Result<()> {
    for student in students {
        for (what, value) in [("loss", student.loss), ("gradient norm", student.grad_norm)] {
            if !value.is_finite() {
                bail!(
                    "the {what} of student `{}` is {value} at step {step}; the last checkpoint is \
                     from before that. Lower optimizer.learning_rate, set \
                     optimizer.clip_grad_norm, or use run.precision = \"fp32\"",
                    student.name
                );
            }
        }
    }
    Ok(())
}

/// Says what to lower where `error` is that the device has no memory left.
pub fn explain_memory(error: anyhow::Error, config: &Config) -> anyhow::Error {
    let text = format!("{error:#}");
    if !text.contains("out of memory") && !text.contains("can't allocate memory") {
        return error;
    }
    let batch = config.data.batch_size;
    error.context(format!(
        "out of memory: lower data.batch_size (now {batch}; with data.global_batch_size kept, \
         gradients are accumulated and the mathematics stays the same), use run.precision = \
         \"bf16\", or raise the students' mask_ratio"
    ))
}
