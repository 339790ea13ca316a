//! The evaluations of a run: what `[evaluation]` asks for, measured when training has ended.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;
use tracing::warn;

use super::opening::opening;
use crate::artifacts::{EvaluationFile, EvaluationResult, ImageCount, Provenance, Role, paths};
use crate::config::{ConfigError, DataConfig, KeyError, TrainConfig};
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
    let observer = OnScreen { shows_features: false };
    eval::prepare(&evaluations(train)?, &source(train, &observer))?.check_labels()
}

/// Measures what the config asks for of the newest checkpoint, whose encoders are `trained`, but for what
/// was measured before, and writes all of it down in the run's directory. All processes take part; the
/// first one alone needs the `checkpoint`, with what names the teacher, and has the results.
///
/// # Errors
/// Shards cannot be read or have no labels, the disk is full, or [`eval::Interrupted`].
pub fn measure(
    task: &dyn TaskConfig,
    setting: &Setting,
    checkpoint: Option<(&Checkpoint, Option<String>)>,
    trained: &Trained,
) -> Result<Vec<EvaluationResult>> {
    let train = task.train();
    let named = evaluations(train)?;
    let path = paths::evaluation(&train.run.dir);
    let mut done = match &checkpoint {
        Some((checkpoint, teacher)) => {
            done_before(&path, train, (checkpoint, teacher.as_deref()), &named)?
        }
        None => vec![None; named.len()],
    };
    let missing = agree_on_missing(&done, setting.group)?;
    if !missing.is_empty() {
        let (places, named): (Vec<usize>, Vec<NamedEvaluation>) =
            named.into_iter().enumerate().filter(|(place, _)| missing.contains(place)).unzip();
        let initial = tasks::initial_encoders(train, task.encoders(), setting.device);
        let subjects = subjects(task, &initial, trained);
        let worker = setting.images.as_ref().context("there are no images")?.worker_program;
        let source = source(train, &OnScreen { shows_features: true });
        let found = eval::measure(&named, &subjects, &source, worker, setting.group)?;
        // The first process has the checkpoint, and writes.
        let Some((checkpoint, teacher)) = checkpoint else { return Ok(Vec::new()) };
        for ((place, one), found) in places.into_iter().zip(named).zip(found) {
            let by = (checkpoint, teacher.as_deref());
            let of = provenance(train, by, &one, found.images.clone())?;
            done[place] = Some(result(&one, found, of, Some(checkpoint.manifest.step)));
        }
        let file = EvaluationFile { results: done.into_iter().flatten().collect() };
        file.write(&path)?;
        return Ok(file.results);
    }
    Ok(done.into_iter().flatten().collect())
}

/// Of each of the evaluations `named` what the file at `path` says of just what its figures depend on.
fn done_before(
    path: &Path,
    train: &TrainConfig,
    of: (&Checkpoint, Option<&str>),
    named: &[NamedEvaluation],
) -> Result<Vec<Option<EvaluationResult>>> {
    let before = measured_before(path);
    if before.is_empty() {
        return Ok(vec![None; named.len()]);
    }
    let observer = OnScreen { shows_features: false };
    let prepared = eval::prepare(named, &source(train, &observer))?;
    let known = |(number, one): (usize, &NamedEvaluation)| {
        let own = provenance(train, of, one, prepared.images(number))?;
        let is_own = |result: &&EvaluationResult| {
            let is_same = result.of.as_ref().is_some_and(|of| {
                // Earlier versions did not note the images.
                let images = of.images.as_ref().or(own.images.as_ref()).cloned();
                Provenance { images, ..of.clone() } == own
            });
            is_same && (&result.name, &*result.kind) == (&one.name, one.kind)
        };
        Ok(before.iter().find(is_own).cloned())
    };
    named.iter().enumerate().map(known).collect()
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
    Ok(eval::read(&train.evaluation).map_err(in_config)?)
}

/// What the figures of an evaluation depend on, whose `images` are in this state.
fn provenance(
    train: &TrainConfig,
    (checkpoint, teacher): (&Checkpoint, Option<&str>),
    one: &NamedEvaluation,
    images: String,
) -> Result<Provenance> {
    let TrainConfig { data, run, .. } = train;
    Ok(Provenance {
        weights: checkpoint.digest(),
        settings: with_reading(serde_json::to_value(&one.settings)?, data)?,
        input_size: data.input_size,
        mean: data.mean,
        std: data.std,
        precision: serde_json::to_value(run.precision)?,
        images: Some(images),
        teacher: teacher.map(str::to_string),
    })
}

/// The settings of an evaluation with how images and labels are read, where that is not as usual.
pub(super) fn with_reading(settings: Value, data: &DataConfig) -> Result<Value> {
    let usual = DataConfig::minimal(Vec::new());
    let own = (&data.label, &data.classes, data.exif);
    if own == (&usual.label, &usual.classes, usual.exif) {
        return Ok(settings);
    }
    Ok(serde_json::to_value((settings, own))?)
}

/// What a run measures: each encoder before and after training, and the teacher.
fn subjects<'a>(
    config: &'a dyn TaskConfig,
    initial: &'a [Result<Box<dyn encoders::Encoder>>],
    trained: &Trained<'a>,
) -> Vec<Subject<'a>> {
    let compute = config.train().run.precision.kind();
    let seeing = |name, role, model, image_size| {
        let encoder = Some(Encoder { model, compute, image_size });
        Subject { name, role, encoder }
    };
    let subject = |name, role, model| seeing(name, role, model, None);
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
    let size = config.teacher_input_size();
    let teacher = trained.teacher.map(|model| seeing("teacher", Role::Teacher, model, size));
    subjects.extend(teacher);
    subjects
}

/// What is kept of what `one` found of weights after so many steps.
pub(super) fn result(
    one: &NamedEvaluation,
    found: Measured,
    of: Provenance,
    step: Option<u64>,
) -> EvaluationResult {
    let NamedEvaluation { name, kind, evaluation, .. } = one;
    let counts: Vec<u64> = found.sets.iter().map(|set| set.images as u64).collect();
    let count =
        |(set, &count): (&eval::SetFacts, &u64)| ImageCount { set: set.title.into(), count };
    EvaluationResult {
        name: name.clone(),
        kind: (*kind).into(),
        step,
        of: Some(of),
        title: evaluation.title(),
        description: evaluation.description(&counts),
        images: found.sets.iter().zip(&counts).map(count).collect(),
        metrics: evaluation.metrics(),
        main: evaluation.main_metrics(),
        measurements: found.measurements,
    }
}

/// Images seen as the run sees images.
pub(super) fn source<'a>(train: &'a TrainConfig, observer: &'a OnScreen) -> Source<'a> {
    source_of(&train.data, observer)
}

/// Images seen as `data` says, for evaluations of a configuration.
pub(super) fn source_of<'a>(data: &'a DataConfig, observer: &'a OnScreen) -> Source<'a> {
    Source { data, given: Given::InConfig, observer }
}

/// What is wrong in a configuration whose file is named further up.
pub(super) fn in_config((key, message): KeyError) -> ConfigError {
    ConfigError { file: "".into(), key, message }
}

/// Shows phases like those of training, and ends at a signal.
pub(super) struct OnScreen {
    /// Whether computing features is a phase that is shown: while training another one is.
    pub shows_features: bool,
}

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
        let begin = || Phase::begin(&format!("features of {} images", set.title), None);
        let phase = self.shows_features.then(begin);
        let features = extract(&|_, _| signals::stop_requested().is_some())?;
        if let Some(phase) = phase {
            phase.finish();
        }
        Ok(features)
    }
}
