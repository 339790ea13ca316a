//! The evaluations of a run: what `[evaluation]` asks for, measured when training has ended.

use std::path::Path;

use anyhow::{Context, Result};
use tracing::warn;

use super::opening::opening;
use crate::artifacts::{EvaluationFile, EvaluationResult, ImageCount, Provenance, Role, paths};
use crate::config::{ConfigError, TrainConfig};
use crate::data::{Dataset, ShardProgress};
use crate::encoders;
use crate::eval::{
    self, Encoder, Features, Given, ImageSet, Measured, NamedEvaluation, Observer, Progress,
    Source, Subject,
};
use crate::tasks::{self, Setting, TaskConfig, TraineeConfig};
use crate::train::checkpoint::Checkpoint;
use crate::train::signals::{self, Signal};
use crate::ui::screen::Phase;

/// A signal came while encoders were measured. The run is complete but for that.
#[derive(Debug, thiserror::Error)]
#[error("stopped by {0} while encoders were measured; the same command goes on with that")]
pub struct Interrupted(pub Signal);

/// The encoders of a run, as they are after training.
pub struct Trained<'a> {
    /// The encoders that were trained, in the order of the config.
    pub encoders: Vec<&'a dyn encoders::Encoder>,
    pub teacher: Option<&'a dyn encoders::Encoder>,
}

/// Finds out what cannot be measured in the end before anything is trained.
///
/// # Errors
/// Shards cannot be read, have no labels, or are too few images.
pub fn check(train: &TrainConfig) -> Result<()> {
    eval::check(&evaluations(train)?, &source(train))
}

/// Measures what the config asks for of the newest `checkpoint`, whose encoders are `trained`, but for
/// what was measured before, and writes all of it down in the run's directory.
///
/// # Errors
/// Shards cannot be read or have no labels, the disk is full, or [`Interrupted`].
pub fn measure(
    task: &dyn TaskConfig,
    setting: &Setting,
    checkpoint: &Checkpoint,
    trained: &Trained,
) -> Result<Vec<EvaluationResult>> {
    let train = task.train();
    let path = paths::evaluation(&train.run.dir);
    let before = measured_before(&path);
    let (mut done, mut missing) = (Vec::new(), Vec::new());
    for (place, one) in evaluations(train)?.into_iter().enumerate() {
        let of = provenance(train, checkpoint, &one)?;
        let known = |result: &&EvaluationResult| {
            (&*result.name, &*result.kind, &result.of) == (&*one.name, one.kind, &Some(of.clone()))
        };
        match before.iter().find(known) {
            Some(result) => done.push((place, result.clone())),
            None => missing.push((place, of, one)),
        }
    }
    if missing.is_empty() {
        return Ok(done.into_iter().map(|(_, result)| result).collect());
    }
    let step = checkpoint.manifest.step;
    let (places, missing): (Vec<_>, Vec<_>) =
        missing.into_iter().map(|(place, of, one)| ((place, of), one)).unzip();
    let initial = tasks::initial_encoders(train, task.encoders(), setting.device);
    let subjects = subjects(task, &initial, trained);
    let worker_program = setting.images.as_ref().context("there are no images")?.worker_program;
    let source = source(train);
    let found = eval::measure(&missing, &subjects, &source, worker_program, setting.device)?;
    for (((place, of), one), found) in places.into_iter().zip(missing).zip(found) {
        done.push((place, result(one, found, of, step)));
    }
    done.sort_by_key(|(place, _)| *place);
    let file = EvaluationFile { results: done.into_iter().map(|(_, result)| result).collect() };
    file.write(&path)?;
    Ok(file.results)
}

/// What an earlier call left; nothing where that cannot be read, which is then measured again.
fn measured_before(path: &Path) -> Vec<EvaluationResult> {
    match EvaluationFile::read(path) {
        Ok(file) => file.unwrap_or_default().results,
        Err(error) => {
            warn!("{} cannot be read and is written anew: {error:#}", path.display());
            Vec::new()
        }
    }
}

fn evaluations(train: &TrainConfig) -> Result<Vec<NamedEvaluation>> {
    let evaluations = eval::read(&train.evaluation);
    Ok(evaluations.map_err(|(key, message)| ConfigError { file: "".into(), key, message })?)
}

fn provenance(
    train: &TrainConfig,
    checkpoint: &Checkpoint,
    one: &NamedEvaluation,
) -> Result<Provenance> {
    let TrainConfig { data, run, .. } = train;
    Ok(Provenance {
        weights: checkpoint.digest(),
        settings: serde_json::to_value(&one.settings)?,
        input_size: data.input_size,
        mean: data.mean,
        std: data.std,
        precision: serde_json::to_value(run.precision)?,
    })
}

/// What a run measures: each encoder before and after training, and the teacher.
fn subjects<'a>(
    config: &'a dyn TaskConfig,
    initial: &'a [Result<Box<dyn encoders::Encoder>>],
    trained: &Trained<'a>,
) -> Vec<Subject<'a>> {
    let compute = config.train().run.precision.kind();
    let subject = |name, role, model| Subject { name, role, encoder: Encoder { model, compute } };
    let mut subjects = Vec::new();
    let both = initial.iter().zip(&trained.encoders);
    for (encoder, (before, after)) in config.encoders().iter().zip(both) {
        let is_drawn = encoder.weights == TraineeConfig::RANDOM;
        let role = if is_drawn { Role::Random } else { Role::Initial };
        match before {
            Ok(before) => subjects.push(subject(&*encoder.name, role, &**before)),
            Err(error) => {
                warn!("the initial weights of `{}` are not measured: {error:#}", encoder.name)
            }
        }
        subjects.push(subject(&*encoder.name, Role::Trained, *after));
    }
    subjects.extend(trained.teacher.map(|teacher| subject("teacher", Role::Teacher, teacher)));
    subjects
}

fn result(one: NamedEvaluation, found: Measured, of: Provenance, step: u64) -> EvaluationResult {
    let NamedEvaluation { name, kind, evaluation, .. } = one;
    let counts: Vec<u64> = found.sets.iter().map(|set| set.images as u64).collect();
    let count =
        |(set, &count): (&eval::SetFacts, &u64)| ImageCount { set: set.title.into(), count };
    EvaluationResult {
        name,
        kind: kind.into(),
        step: Some(step),
        of: Some(of),
        title: evaluation.title(),
        description: evaluation.description(&counts),
        images: found.sets.iter().zip(&counts).map(count).collect(),
        metrics: evaluation.metrics(),
        measurements: found.measurements,
    }
}

/// Images seen as the run sees images.
fn source(train: &TrainConfig) -> Source<'_> {
    Source { data: &train.data, given: Given::InConfig, observer: &OnScreen }
}

/// Shows phases like those of training, and ends at a signal.
struct OnScreen;

impl Observer for OnScreen {
    fn open(
        &self,
        set: &ImageSet,
        open: &dyn Fn(ShardProgress<'_>) -> Result<Dataset>,
    ) -> Result<Dataset> {
        opening(&format!("opening {} shards", set.title), open)
    }

    fn extract(
        &self,
        set: &ImageSet,
        extract: &mut dyn FnMut(Progress<'_>) -> Result<Vec<Features>>,
    ) -> Result<Vec<Features>> {
        let phase = Phase::begin(&format!("features of {} images", set.title), None);
        let features = extract(&|_, _| {
            let stop = signals::stop_requested();
            stop.map_or(Ok(()), |signal| Err(Interrupted(signal).into()))
        })?;
        phase.finish();
        Ok(features)
    }
}
