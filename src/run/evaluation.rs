//! The evaluations of a run: what `[evaluation]` asks for, measured when training has ended.

use std::path::Path;

use anyhow::{Context, Result};
use tracing::warn;

use super::opening::opening;
use crate::artifacts::{EvaluationFile, EvaluationResult, ImageCount, Provenance, Role, paths};
use crate::config::{ConfigError, TrainConfig};
use crate::data::{Dataset, ShardProgress};
use crate::dist::ProcessGroup;
use crate::encoders;
use crate::eval::{
    self, Encoder, Features, Given, ImageSet, Measured, NamedEvaluation, Observer, Progress,
    Source, Subject,
};
use crate::tasks::{self, Setting, TaskConfig, TraineeConfig};
use crate::train::checkpoint::Checkpoint;
use crate::train::signals;
use crate::ui::screen::Phase;

/// Where the first process leaves word for the others of what is to be measured.
const MISSING: &str = "evaluations";

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
    eval::prepare(&evaluations(train)?, &source(train))?.check_labels()
}

/// Measures what the config asks for of the newest checkpoint, whose encoders are `trained`, but for what
/// was measured before, and writes all of it down in the run's directory. All processes take part; the
/// first one alone needs the `checkpoint`, and has the results.
///
/// # Errors
/// Shards cannot be read or have no labels, the disk is full, or [`eval::Interrupted`].
pub fn measure(
    task: &dyn TaskConfig,
    setting: &Setting,
    checkpoint: Option<&Checkpoint>,
    trained: &Trained,
) -> Result<Vec<EvaluationResult>> {
    let (train, group) = (task.train(), setting.group);
    let mut results = Vec::new();
    let named = evaluations(train)?;
    for one in &named {
        results.push(match checkpoint {
            Some(checkpoint) => Some(Pending::of(train, checkpoint, one)?),
            None => None,
        });
    }
    let path = paths::evaluation(&train.run.dir);
    let before = if checkpoint.is_some() { measured_before(&path) } else { Vec::new() };
    let known = |pending: &Pending| before.iter().find(|result| pending.is(result)).cloned();
    let mut done: Vec<Option<EvaluationResult>> =
        results.iter().map(|pending| pending.as_ref().and_then(known)).collect();
    let missing = agree_on_missing(&done, group)?;
    if !missing.is_empty() {
        let (places, named): (Vec<usize>, Vec<NamedEvaluation>) =
            named.into_iter().enumerate().filter(|(place, _)| missing.contains(place)).unzip();
        let initial = tasks::initial_encoders(train, task.encoders(), setting.device);
        let subjects = subjects(task, &initial, trained);
        let worker = setting.images.as_ref().context("there are no images")?.worker_program;
        let found = eval::measure(&named, &subjects, &source(train), worker, group)?;
        for ((place, one), found) in places.into_iter().zip(named).zip(found) {
            if let Some(pending) = results[place].take() {
                done[place] = Some(result(one, found, pending));
            }
        }
    }
    let results: Vec<EvaluationResult> = done.into_iter().flatten().collect();
    if checkpoint.is_some() && !missing.is_empty() {
        let file = EvaluationFile { results };
        file.write(&path)?;
        return Ok(file.results);
    }
    Ok(results)
}

/// The places of evaluations that are not `done`, as the first process has it.
fn agree_on_missing(done: &[Option<EvaluationResult>], group: &ProcessGroup) -> Result<Vec<usize>> {
    if !group.is_first() {
        return Ok(serde_json::from_slice(&group.wait_for(MISSING)?)?);
    }
    let missing = done.iter().enumerate().filter(|(_, result)| result.is_none());
    let missing: Vec<usize> = missing.map(|(place, _)| place).collect();
    group.publish(MISSING, &serde_json::to_vec(&missing)?)?;
    Ok(missing)
}

/// An evaluation of a checkpoint.
struct Pending {
    name: String,
    kind: &'static str,
    of: Provenance,
    step: u64,
}

impl Pending {
    fn of(train: &TrainConfig, checkpoint: &Checkpoint, one: &NamedEvaluation) -> Result<Self> {
        let of = provenance(train, checkpoint, one)?;
        Ok(Self { name: one.name.clone(), kind: one.kind, of, step: checkpoint.manifest.step })
    }

    /// Whether this is what `result` is of.
    fn is(&self, result: &EvaluationResult) -> bool {
        let own = (&*self.name, self.kind, Some(&self.of));
        own == (&*result.name, &*result.kind, result.of.as_ref())
    }
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

/// The evaluations that the config asks for.
pub(super) fn evaluations(train: &TrainConfig) -> Result<Vec<NamedEvaluation>> {
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

fn result(one: NamedEvaluation, found: Measured, pending: Pending) -> EvaluationResult {
    let NamedEvaluation { name, kind, evaluation, .. } = one;
    let Pending { of, step, .. } = pending;
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
        let features = extract(&|_, _| signals::stop_requested().is_some())?;
        phase.finish();
        Ok(features)
    }
}
