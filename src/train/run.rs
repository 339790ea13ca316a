//! A run of training: what it stands on, and its state, which checkpoints save and restore.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use tch::{Device, Tensor};
use tracing::{debug_span, info};

use super::checkpoint::{Checkpoint, Copying, Saver, Snapshot};
use super::evaluating::Evaluating;
use super::objective::Objective;
use super::schedule::Schedule;
use super::trainee_optimizer::TraineeOptimizer;
use crate::artifacts::{Identity, Stream};
use crate::config::TrainConfig;
use crate::dist::{Activity, ProcessGroup};
use crate::native::{available_memory, guard};

/// What the training loop works with.
pub struct Run<'a> {
    pub config: &'a TrainConfig,
    /// The run's directory.
    pub path: &'a Path,
    pub group: &'a ProcessGroup,
    pub objective: &'a dyn Objective,
    pub schedule: &'a Schedule,
    /// Batches of this process in every step.
    pub batches_per_step: u64,
    /// Floating-point operations of an image's step, by the recipe.
    pub flops_per_image: f64,
    /// Steps, from 1, that are to be recorded.
    pub profiled: Option<RangeInclusive<u64>>,
    /// Images of how training goes, if any.
    pub drawing: Option<Drawing<'a>>,
    /// Figures of how good it is that are taken on the way, if any.
    pub evaluating: Option<Evaluating<'a>>,
}

/// Images that the first process draws while training.
pub struct Drawing<'a> {
    /// Steps between them.
    pub every: u64,
    /// Gives the encoded PNG of the weights as they are.
    pub draw: Box<dyn Fn() -> Result<Vec<u8>> + 'a>,
}

/// The optimizers and counters of a run: with the trainees' weights, all that a checkpoint holds.
pub struct State {
    pub optimizers: Vec<TraineeOptimizer>,
    /// Optimizer steps done.
    pub step: u64,
    /// Samples of the global stream consumed.
    pub position: u64,
    pub stream: Stream,
    /// What checkpoints say that it was trained with; the first process knows.
    pub identity: Identity,
    /// Whether the run's directory has the checkpoint that it goes on from, if it does.
    pub is_kept: bool,
    /// A scalar on the device: 1 once an update was skipped, else 0; none before the first step.
    skipping: Option<Tensor>,
    /// A save that copies the state, which must stay as it is until then.
    copying: Option<Copying>,
    /// For how long updates have waited for such copies.
    waited: Duration,
}

impl State {
    /// The state before the first step.
    pub fn new(
        group: &ProcessGroup,
        objective: &dyn Objective,
        config: &TrainConfig,
        stream: Stream,
    ) -> Result<Self> {
        let optimizers = objective
            .trainees()
            .iter()
            .map(|trainee| TraineeOptimizer::new(group, trainee, config));
        Ok(Self {
            optimizers: optimizers.collect::<Result<_>>()?,
            step: 0,
            position: 0,
            stream,
            identity: Identity::default(),
            is_kept: true,
            skipping: None,
            copying: None,
            waited: Duration::ZERO,
        })
    }

    /// Continues from a checkpoint.
    ///
    /// # Errors
    /// The checkpoint does not fit the trainees.
    pub fn restore(&mut self, objective: &dyn Objective, checkpoint: &Checkpoint) -> Result<()> {
        for (trainee, trainee_optimizer) in objective.trainees().iter().zip(&mut self.optimizers) {
            trainee_optimizer.optimizer_mut().restore(trainee, checkpoint)?;
        }
        let manifest = &checkpoint.manifest;
        (self.step, self.position) = (manifest.step, manifest.position);
        info!(step = self.step, "continuing from {}", checkpoint.folder.display());
        Ok(())
    }

    /// Whether the next update is to be skipped, which `now` says of it alone: after one that was, all are,
    /// until the host has read why. So the weights stay those of the step before.
    pub(super) fn skip_from_now_on(&mut self, now: &Tensor) -> Result<Tensor> {
        let skip = match &self.skipping {
            None => now.shallow_clone(),
            Some(before) => guard(|| Ok(now.maximum(before)))?,
        };
        self.skipping = Some(skip.shallow_clone());
        Ok(skip)
    }

    /// Goes back to the state after `step`: all updates since were skipped.
    pub(super) fn take_back(&mut self, step: u64) {
        let steps = self.step - step;
        self.step = step;
        self.position -= steps * self.stream.global_batch_size as u64;
        for trainee_optimizer in &mut self.optimizers {
            trainee_optimizer.optimizer_mut().take_back(steps);
        }
    }

    /// Begins to save the state as it is, whose weights every process must hold whole first.
    ///
    /// # Errors
    /// A process failed, or an earlier checkpoint could not be written.
    pub(super) fn save(&mut self, run: &Run, saver: &mut Saver) -> Result<()> {
        let _saving = run.group.enter(Activity::Saving);
        let _span = debug_span!("save_checkpoint", step = self.step).entered();
        for trainee_optimizer in &mut self.optimizers {
            trainee_optimizer.receive_weights(run.group)?;
        }
        run.group.synchronize()?;
        let step = self.step;
        let total_steps = run.schedule.total_steps();
        let learning_rate = run.schedule.learning_rate(step.saturating_sub(1));
        saver.identify(Identity { total_steps, learning_rate, ..self.identity.clone() });
        let copying = saver.save(&self.snapshot(run), &|| run.group.check_failure())?;
        self.copying = Some(copying);
        Ok(())
    }

    fn snapshot(&self, run: &Run) -> Snapshot<'_> {
        let trainees = run.objective.trainees().iter().zip(&self.optimizers);
        let trainees = trainees.map(|(trainee, own)| own.optimizer().state_of(trainee)).collect();
        let (step, position, stream) = (self.step, self.position, &self.stream);
        Snapshot { step, position, stream, trainees }
    }

    /// Has memory prepared into which a GPU copies the state.
    pub(super) fn prepare_saves(&self, run: &Run, saver: &mut Saver) -> Result<()> {
        let device = run.group.device();
        let limit = (run.config.checkpoint.pinned_gigabytes * 1e9) as u64;
        if device == Device::Cpu || limit == 0 {
            return Ok(());
        }
        // Other programs of the node need some, and so do its other processes.
        let ranks = run.group.rank_info().local_world_size as u64;
        let fair = available_memory().map_or(u64::MAX, |bytes| bytes / 2 / ranks);
        saver.prepare(&self.snapshot(run), device, limit.min(fair))
    }

    /// Waits until the state, if it is being saved, may change.
    ///
    /// # Errors
    /// A process failed.
    pub(super) fn await_copies(&mut self, group: &ProcessGroup) -> Result<()> {
        let Some(copying) = self.copying.take() else { return Ok(()) };
        let _saving = group.enter(Activity::Saving);
        let begun = Instant::now();
        copying.wait(&|| group.check_failure())?;
        self.waited += begun.elapsed();
        Ok(())
    }

    /// For how long updates have waited for copies since this was last asked.
    pub(super) fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}
