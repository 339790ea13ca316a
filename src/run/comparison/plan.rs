//! What is left to measure of a comparison: all of it is checked before the first figure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::ComparisonConfig;
use super::rows::{Row, rows};
use crate::artifacts::{EvaluationFile, Provenance, paths};
use crate::config::ConfigError;
use crate::eval;
use crate::run::evaluation::{OnScreen, in_config, source_of, with_reading};
use crate::run::heads::HeadsConfig;
use crate::weights::Preprocessing;

/// What is to be measured of one encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RowPlan {
    pub row: Row,
    /// Those of `[evaluation]`, in its order.
    pub evaluations: Vec<Unit>,
    /// Those of `[heads]`, in its order.
    pub heads: Vec<Unit>,
}

/// One evaluation of one encoder, or one training of heads on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Unit {
    pub name: String,
    /// Where its figures are kept.
    pub file: PathBuf,
    /// All that they depend on.
    pub of: Provenance,
    /// Whether they are there.
    pub is_done: bool,
}

impl Unit {
    fn new(dir: &Path, row: &Row, name: &str, of: Provenance) -> Self {
        let file = paths::measured(dir, &row.folder(), name);
        // What cannot be read is measured again.
        let found = EvaluationFile::read(&file).ok().flatten().unwrap_or_default().results;
        let is_done = !found.is_empty() && found.iter().all(|one| one.of.as_ref() == Some(&of));
        Self { name: name.to_string(), file, of, is_done }
    }

    /// The directory of a training of heads: another one where anything that figures depend on changes, so
    /// that none goes on with what another has begun.
    pub fn heads_dir(&self, dir: &Path, row: &Row) -> Result<PathBuf> {
        let digest = blake3::hash(&serde_json::to_vec(&self.of)?).to_hex();
        Ok(paths::heads(dir, &row.folder(), &format!("{}-{}", self.name, &digest[..8])))
    }
}

/// What is to be measured, once encoders, images and targets were found to be there.
///
/// # Errors
/// They are not, or are not what they should be.
pub(super) fn plan(config: &ComparisonConfig) -> Result<Vec<RowPlan>> {
    let rows = rows(config)?;
    // The sizes that images are cut to change nothing about which they are, or whether they are there.
    let (size, Preprocessing { mean, std }) = look(rows.first().context("there are no encoders")?)?;
    let data = config.data(size, mean, std);
    let observer = OnScreen { shows_features: false };
    let evaluations = config.evaluations().map_err(in_config)?;
    let prepared = eval::prepare(&evaluations, &source_of(&data, &observer))?;
    let names = evaluations.iter().map(|one| one.name.clone()).enumerate();
    let images: BTreeMap<String, String> =
        names.map(|(number, name)| (name, prepared.images(number))).collect();
    let plans: Result<Vec<RowPlan>> =
        rows.into_iter().map(|row| plan_row(config, row, &images)).collect();
    let plans = plans?;
    let is_left = |units: fn(&RowPlan) -> &[Unit], name: &str| {
        plans.iter().flat_map(units).any(|unit| unit.name == name && !unit.is_done)
    };
    for name in config.heads.keys().filter(|name| is_left(|plan| &plan.heads, name)) {
        let heads = heads_on(config, name, &plans[0].row, PathBuf::new())?;
        heads.data.open().with_context(|| format!("heads.{name}.data"))?;
    }
    if evaluations.iter().any(|one| is_left(|plan| &plan.evaluations, &one.name)) {
        prepared.check_labels()?;
    }
    Ok(plans)
}

/// Finds out whether the encoder can be loaded: the side of its images, and their normalisation.
fn look(row: &Row) -> Result<(usize, Preprocessing)> {
    let keys = row.keys();
    row.source.check([&keys[0], &keys[1]], row.image_size)
}

/// `images` has the state of each evaluation's images.
fn plan_row(
    config: &ComparisonConfig,
    row: Row,
    images: &BTreeMap<String, String>,
) -> Result<RowPlan> {
    let (dir, precision) = (&config.run.dir, serde_json::to_value(config.run.precision)?);
    let (input_size, Preprocessing { mean, std }) = look(&row)?;
    let data = config.data(input_size, mean, std);
    let weights = row.source.digest(&row.keys()[0])?;
    let of = |settings: Value, input_size| Provenance {
        weights: weights.clone(),
        settings,
        input_size,
        mean,
        std,
        precision: precision.clone(),
        images: None,
        teacher: None,
    };
    let mut evaluations = Vec::new();
    for one in config.evaluations().map_err(in_config)? {
        let settings = with_reading(serde_json::to_value(&one.settings)?, &data)?;
        let images = images.get(&one.name).cloned();
        let of = Provenance { images, ..of(settings, input_size) };
        evaluations.push(Unit::new(dir, &row, &one.name, of));
    }
    let mut heads = Vec::new();
    for name in config.heads.keys() {
        let own = heads_on(config, name, &row, PathBuf::new())?;
        let side = own.training.crop_size;
        let keys = row.keys();
        row.source.check([&keys[0], &format!("heads.{name}.training.crop_size")], Some(side))?;
        heads.push(Unit::new(dir, &row, name, of(settings_of(&own)?, side)));
    }
    Ok(RowPlan { row, evaluations, heads })
}

/// What the figures of heads depend on beside the encoder.
fn settings_of(heads: &HeadsConfig) -> Result<Value> {
    let HeadsConfig { seed, data, heads, training, .. } = heads;
    Ok(serde_json::to_value((seed, data, heads, training))?)
}

/// The training of the heads `name` on the encoder of a row.
pub(super) fn heads_on(
    config: &ComparisonConfig,
    name: &str,
    row: &Row,
    dir: PathBuf,
) -> Result<HeadsConfig, ConfigError> {
    config.heads_on(name, &row.source, dir).map_err(in_config)
}
