//! What rank 0 writes down and shows of the training of heads.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Result;
use tch::Device;
use tracing::{info, warn};

use super::config::HeadsConfig;
use super::figures::{EpochFigures, HeadResult, History};
use super::plan::Plan;
use super::test_pass::Figures;
use crate::artifacts::{StepMetrics, TraineeMetrics, paths};
use crate::native::PeakMemory;
use crate::train::RunLog;

/// The metrics and figures of a run of heads.
pub struct Log {
    run: RunLog,
    history: History,
    plan: Plan,
    device: Device,
    since: Instant,
}

/// What is recorded of an update beside the numbers of its heads.
#[derive(Clone, Copy)]
pub struct Update {
    pub step: u64,
    /// Rate of the first head.
    pub rate: f64,
    /// How long its batch was waited for.
    pub waited: Duration,
    /// Images so far that did not decode.
    pub failed_images: u64,
}

impl Log {
    /// The log of a run that goes over `steps` on `device`.
    ///
    /// # Errors
    /// The run's directory cannot be written, or what is there is damaged.
    pub fn open(
        config: &HeadsConfig,
        plan: Plan,
        steps: Range<u64>,
        device: Device,
    ) -> Result<Self> {
        let HeadsConfig { run, log, heads, training, .. } = config;
        let names: Vec<String> = heads.iter().map(|head| head.name.clone()).collect();
        let history = History::open(paths::figures(&run.dir), steps.start)?;
        let of_run = (training.global_batch_size, device);
        let run = RunLog::of_trainees(&run.dir, log, &names, steps, of_run)?;
        Ok(Self { run, history, plan, device, since: Instant::now() })
    }

    /// Whether there are figures after `step`.
    pub fn has_figures(&self, step: u64) -> bool {
        self.history.has(step)
    }

    /// Writes what is to be known of the updates up to a state that is saved now.
    ///
    /// # Errors
    /// That cannot be written.
    pub fn before_save(&mut self) -> Result<()> {
        self.run.before_save()
    }

    /// Records an update that was read now.
    ///
    /// # Errors
    /// That cannot be written.
    pub fn step(&mut self, update: Update, trainees: Vec<TraineeMetrics>) -> Result<()> {
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        let Update { step, rate, waited, failed_images } = update;
        let Plan { losses, images_per_loss, updates_per_epoch, updates, .. } = self.plan;
        let metrics = StepMetrics {
            step,
            epoch: step as f64 / updates_per_epoch as f64,
            learning_rate: rate,
            images_seen: step * losses * images_per_loss,
            images_per_second: f64::NAN,
            data_wait_seconds: waited.as_secs_f64(),
            exchange_wait_seconds: None,
            step_seconds: f64::NAN,
            trainees,
            flops_per_second: None,
            mfu: None,
            peak_memory_bytes: PeakMemory::of(self.device).map(|peak| peak.held),
            failed_images,
            device: None,
            slowest_rank: None,
        };
        self.run.add(metrics, seconds, step == updates)
    }

    /// Records what a test pass after `step` found of heads, by their names.
    ///
    /// # Errors
    /// That cannot be written.
    pub fn figures(&mut self, step: u64, epoch: u64, found: Vec<(String, Figures)>) -> Result<()> {
        let mut scalars = Vec::new();
        let mut lines = Vec::new();
        for (head, figures) in found {
            let shown: Vec<String> =
                figures.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
            info!(epoch, "test of `{head}`: {}", shown.join(", "));
            scalars.extend(
                figures.iter().map(|(name, value)| (format!("test/{head}/{name}"), *value)),
            );
            lines.push(EpochFigures { epoch, step, head, figures });
        }
        self.history.add(lines)?;
        self.run.scalars(step, &scalars)?;
        self.since = Instant::now();
        Ok(())
    }

    /// What is to be said at the end of heads, each with the update whose loss was not finite, if any;
    /// `skipped` updates changed nothing.
    pub fn finish<'a>(
        self,
        skipped: u64,
        heads: impl Iterator<Item = (&'a str, Option<u64>)>,
    ) -> Vec<HeadResult> {
        self.run.finish();
        if skipped > 0 {
            warn!("{skipped} updates changed nothing: no pixel of their targets counted");
        }
        heads.map(|(head, failed)| self.history.result(head, failed)).collect()
    }
}
