//! How a run ends.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::artifacts::{EvaluationResult, MetricsLines, paths};
use crate::tasks::TaskConfig;
use crate::train::signals::Signal;

/// How a run ended that did not fail.
#[derive(Debug)]
pub enum Outcome {
    /// All is done. Of several processes the first one alone tells what came out.
    Finished(Option<Box<Summary>>),
    /// A signal asked for an end. The state is saved; the same run goes on from there.
    Stopped {
        at: Stop,
        /// None: the signal was another process's.
        signal: Option<Signal>,
    },
}

/// What a run was at when it was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Not all of its processes had come.
    Start,
    /// So many optimizer steps were done.
    Training { step: u64 },
    /// Training was complete and encoders were exported; they were being measured.
    Evaluation,
}

/// What came out of a run.
#[derive(Debug)]
pub struct Summary {
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// In the order of the configuration.
    pub encoders: Vec<Finished>,
    /// What the configuration asked to measure.
    pub evaluations: Vec<EvaluationResult>,
}

/// One of the encoders that were trained.
#[derive(Debug)]
pub struct Finished {
    /// Its name in the configuration.
    pub name: String,
    /// The first and the last loss that were logged.
    pub losses: Option<[f64; 2]>,
    /// The folder of its export; none where the configuration asked for no format.
    pub export: Option<PathBuf>,
}

impl Summary {
    /// Collects what the run of `config` has left in its directory.
    pub(super) fn read(
        config: &dyn TaskConfig,
        steps: u64,
        evaluations: Vec<EvaluationResult>,
    ) -> Result<Self> {
        let run = config.train().run.dir.as_path();
        let is_exported = !config.train().export.formats.is_empty();
        let losses = losses(run)?;
        let encoders = config.encoders().iter().map(|encoder| Finished {
            name: encoder.name.clone(),
            losses: losses.iter().find(|found| found.0 == encoder.name).map(|found| found.1),
            export: is_exported.then(|| paths::export(run, &encoder.name)),
        });
        Ok(Self { steps, encoders: encoders.collect(), evaluations })
    }
}

/// Each encoder's first and last logged loss.
fn losses(run: &Path) -> Result<Vec<(String, [f64; 2])>> {
    let read = MetricsLines::read(run);
    let lines =
        read.with_context(|| format!("cannot read the metrics of {}", run.display()))?.lines;
    let (Some(first), Some(last)) = (lines.first(), lines.last()) else { return Ok(Vec::new()) };
    let pairs = first.metrics.trainees.iter().zip(&last.metrics.trainees);
    Ok(pairs
        .filter(|(first, last)| first.loss.is_finite() && last.loss.is_finite())
        .map(|(first, last)| (first.name.clone(), [first.loss, last.loss]))
        .collect())
}
