//! Evaluations of what is trained while it is trained: `every` of an `[evaluation]` table.

use std::slice;

use anyhow::{Context, Result};

use super::evaluation::{OnScreen, evaluations, source, with_reading};
use crate::artifacts::{Measurement, Role};
use crate::config::{ConfigError, TrainConfig};
use crate::encoders;
use crate::eval::{self, Encoder, Interrupted, NamedEvaluation, Prepared, Subject};
use crate::tasks::{Models, Setting, TraineeConfig};
use crate::train::evaluating::{BestBy, Due, Evaluating};

/// The bar of training stays.
const QUIET: OnScreen = OnScreen { shows_features: false };

/// The evaluations that `config` asks for on the way.
///
/// # Errors
/// A setting is wrong.
pub fn named(config: &TrainConfig) -> Result<Vec<NamedEvaluation>> {
    let all = evaluations(config)?.into_iter();
    Ok(all.filter(|one| one.every.is_some()).collect())
}

/// What measures the encoders of `models`, which are `trained`, by the evaluations `named`. None where there
/// are no evaluations.
///
/// # Errors
/// Images cannot be found, or `checkpoint.keep_best` names no figure.
pub fn evaluating<'a>(
    named: &'a [NamedEvaluation],
    config: &'a TrainConfig,
    setting: &'a Setting,
    models: &'a dyn Models,
    trained: &'a [TraineeConfig],
) -> Result<Option<Evaluating<'a>>> {
    let best = best_by(named, config)?;
    let mut prepared = Vec::new();
    for one in named {
        prepared.push(eval::prepare(slice::from_ref(one), &source(config, &QUIET))?);
    }
    let mut due = Vec::new();
    for (one, prepared) in named.iter().zip(&prepared) {
        let of = mark(one, prepared, config)?;
        due.extend(one.every.map(|every| Due { name: one.name.clone(), every, of }));
    }
    if due.is_empty() {
        return Ok(None);
    }
    let measure = Box::new(move |place: usize| {
        match measure(&prepared[place], config, setting, models, trained) {
            Ok(measurements) => Ok(Some(measurements)),
            Err(error) if error.is::<Interrupted>() => Ok(None),
            Err(error) => Err(error),
        }
    });
    Ok(Some(Evaluating { due, measure, best }))
}

/// Tells the settings of `one` and the images that it is made with from any others, wherever these lie.
fn mark(one: &NamedEvaluation, prepared: &Prepared<'_>, config: &TrainConfig) -> Result<String> {
    let TrainConfig { data, run, .. } = config;
    let settings = with_reading(serde_json::to_value(&one.settings)?, data)?;
    let seen = (data.input_size, data.mean, data.std, run.precision);
    let text = serde_json::to_string(&(settings, seen, prepared.fingerprints(0)))?;
    Ok(blake3::hash(text.as_bytes()).to_hex()[..16].to_string())
}

/// The figure by which checkpoints are kept.
fn best_by(named: &[NamedEvaluation], config: &TrainConfig) -> Result<Option<BestBy>, ConfigError> {
    let Some(text) = &config.checkpoint.keep_best else { return Ok(None) };
    match eval::metric_named(named, text) {
        Ok([evaluation, metric]) => Ok(Some(BestBy { evaluation, metric })),
        Err(message) => {
            Err(ConfigError { file: "".into(), key: "checkpoint.keep_best".into(), message })
        }
    }
}

fn measure<'a>(
    prepared: &Prepared<'_>,
    config: &TrainConfig,
    setting: &Setting,
    models: &'a dyn Models,
    trained: &'a [TraineeConfig],
) -> Result<Vec<Measurement>> {
    let compute = config.run.precision.kind();
    let subject = |(own, model): (&'a TraineeConfig, &'a dyn encoders::Encoder)| Subject {
        name: &own.name,
        role: Role::Trained,
        encoder: Some(Encoder { model, compute, image_size: None }),
    };
    let subjects: Vec<Subject<'_>> = trained.iter().zip(models.encoders()).map(subject).collect();
    let worker = setting.images.as_ref().context("there are no images")?.worker_program;
    let found = prepared.measure(&subjects, &source(config, &QUIET), worker, setting.group)?;
    Ok(found.into_iter().flat_map(|one| one.measurements).collect())
}
