//! The encoders of a comparison, a row of its table each.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::config::ComparisonConfig;
use crate::artifacts::Role;
use crate::run::evaluation::in_config;
use crate::run::export::{checkpoint_of_run, config_of};
use crate::run::frozen_encoder::{EncoderSource, RoleInRun};
use crate::tasks::{TaskConfig, TraineeConfig};

/// An encoder that is compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    /// Its table among the encoders.
    pub name: String,
    /// What it is called, beside its role.
    pub label: String,
    pub role: Role,
    pub source: EncoderSource,
    /// Side of images without heads, in pixels; none: that of the weights.
    pub image_size: Option<usize>,
}

impl Row {
    /// Its name in paths.
    pub fn folder(&self) -> String {
        format!("{}-{}", self.label.replace('/', "-"), self.role.name())
    }

    /// The keys of its weights and its size in a configuration.
    pub fn keys(&self) -> [String; 2] {
        [format!("encoders.{}", self.name), "images.input_size".into()]
    }
}

/// The rows of `config`, in its order. A run of which no encoder is named gives all that it has: each before
/// and after training, and the teacher. Checkpoints are named from here on, since a run may go on.
///
/// # Errors
/// A run or its checkpoint cannot be read, or the configuration is not what it should be.
pub(super) fn rows(config: &ComparisonConfig) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, source) in config.sources().map_err(in_config)? {
        let of_one = match &source.run {
            Some(run) => of_run(&name, run, &source, config.images.input_size),
            None => {
                let label = name.clone();
                row(&name, label, source, config.images.input_size).map(|row| vec![row])
            }
        };
        rows.extend(of_one.with_context(|| format!("encoders.{name}"))?);
    }
    Ok(rows)
}

fn row(name: &str, label: String, source: EncoderSource, image_size: Option<usize>) -> Result<Row> {
    Ok(Row { name: name.to_string(), label, role: source.role()?, source, image_size })
}

fn of_run(
    name: &str,
    run: &Path,
    source: &EncoderSource,
    input_size: Option<usize>,
) -> Result<Vec<Row>> {
    let task = config_of(run)?;
    let image_size = input_size.or(Some(task.train().data.input_size));
    let sources = if source.student.is_some() || source.role.is_some() {
        vec![(name.to_string(), source.clone())]
    } else {
        all_of_run(name, run, source, &*task)
    };
    let rows = sources.into_iter().map(|(label, mut source)| {
        let row_role = source.role.unwrap_or(RoleInRun::Trained);
        if row_role == RoleInRun::Trained && source.step.is_none() {
            source.step = Some(checkpoint_of_run(run, None)?.manifest.step);
        }
        row(name, label, source, image_size)
    });
    rows.collect()
}

/// What a run has, by name.
fn all_of_run(
    name: &str,
    run: &Path,
    source: &EncoderSource,
    task: &dyn TaskConfig,
) -> Vec<(String, EncoderSource)> {
    let is_one = task.encoders().len() == 1 && task.teacher().is_none();
    let mut sources = Vec::new();
    for encoder in task.encoders() {
        let label = if is_one { name.to_string() } else { format!("{name}/{}", encoder.name) };
        for role in [RoleInRun::Initial, RoleInRun::Trained] {
            let own = EncoderSource::of_run(run.to_path_buf(), Some(encoder.name.clone()), role);
            let step = source.step.filter(|_| role == RoleInRun::Trained);
            sources.push((label.clone(), EncoderSource { step, ..own }));
        }
    }
    if task.teacher().is_some_and(|(_, weights)| weights != TraineeConfig::RANDOM) {
        let teacher = EncoderSource::of_run(run.to_path_buf(), None, RoleInRun::Teacher);
        sources.push((format!("{name}/teacher"), teacher));
    }
    sources
}
