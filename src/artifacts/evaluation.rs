//! `evaluation.json`: the figures of a run's encoders, a list with a version.
//!
//! ```json
//! { "version": 3, "results": [ {
//!     "name": "knn", "kind": "knn", "step": 500, "of": { "weights": "…", "settings": { … }, … },
//!     "title": "k-NN top-1 accuracy", "description": "…",
//!     "images": [ { "set": "reference", "count": 20000 }, { "set": "held-out", "count": 10000 } ],
//!     "metrics": [ { "name": "top1_k10", "label": "k = 10" } ],
//!     "measurements": [
//!       { "encoder": "small", "role": "trained", "metric": "top1_k10", "value": 0.802 } ] } ] }
//! ```
//!
//! The first version, without a number, held one result of k-NN; it is read as such a list. In the second all
//! metrics were shares.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use indicatif::HumanCount;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::durable;

/// The version that is written.
const VERSION: u64 = 3;
/// The oldest version with a number.
const FIRST_NUMBERED: u64 = 2;

/// What `evaluation.json` holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EvaluationFile {
    pub results: Vec<EvaluationResult>,
}

/// What one evaluation found, of all encoders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationResult {
    /// Its key under `[evaluation]`.
    pub name: String,
    /// The kind of evaluation, such as `knn`.
    pub kind: String,
    /// Optimizer steps that were done.
    pub step: Option<u64>,
    /// Left out in hand-made files alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Provenance>,
    /// What the figures are: `k-NN top-1 accuracy`.
    pub title: String,
    /// How they came about, in a sentence.
    pub description: String,
    /// The images that were looked at.
    pub images: Vec<ImageCount>,
    /// Columns of a table of the measurements, in their order.
    pub metrics: Vec<Metric>,
    /// Names of the metrics that stand for this result beside others; none: the first one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub main: Vec<String>,
    pub measurements: Vec<Measurement>,
}

/// All that figures depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Checksum of the checkpoint.
    pub weights: String,
    /// The evaluation's table, defaults included.
    pub settings: Value,
    pub input_size: usize,
    pub mean: [f64; 3],
    pub std: [f64; 3],
    /// As `run.precision`.
    pub precision: Value,
    /// Checksums of the state that its images were in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<String>,
    /// Path and checksum of the teacher's weights, where it is measured too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
}

/// How many images one set of an evaluation had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageCount {
    /// What the set is for: `reference`, `held-out`.
    pub set: String,
    /// Images with features.
    pub count: u64,
}

/// A figure that an evaluation has of each encoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// For programs: `top1_k10`.
    pub name: String,
    /// For people, beside the result's title: `k = 10`.
    pub label: String,
    #[serde(default, skip_serializing_if = "Unit::is_share")]
    pub unit: Unit,
}

impl Metric {
    /// A figure in `[0, 1]`.
    pub fn share(name: impl Into<String>, label: impl Into<String>) -> Self {
        Self { name: name.into(), label: label.into(), unit: Unit::Share }
    }
}

/// What a figure's number is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// In `[0, 1]`; people see per cent.
    #[default]
    Share,
    /// Of any size, such as an error in metres.
    Number,
}

impl Unit {
    fn is_share(&self) -> bool {
        *self == Self::Share
    }

    /// `value` for people, with so many digits after the point of per cent.
    pub fn show(self, value: f64, digits: usize) -> String {
        match self {
            Self::Share => format!("{:.digits$} %", 100.0 * value),
            Self::Number => format!("{value:.4}"),
        }
    }
}

/// One figure of one encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Name of the encoder in the configuration.
    pub encoder: String,
    pub role: Role,
    /// [`Metric::name`].
    pub metric: String,
    pub value: f64,
    /// What stands behind it, for people, such as the classifier that was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What an encoder is in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Before the first step, of drawn weights.
    Random,
    /// Before the first step, of the weights that the config names.
    Initial,
    Trained,
    Teacher,
    /// Of weights that were named, with no run behind them.
    Stored,
    /// Not measured here: what its makers say of it.
    Published,
}

impl Role {
    /// The word on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Initial => "initial",
            Self::Trained => "trained",
            Self::Teacher => "teacher",
            Self::Stored => "stored",
            Self::Published => "published",
        }
    }
}

/// A row of a table: an encoder, its role, and its value of each metric where it has one.
pub type Row<'a> = (&'a str, Role, Vec<Option<f64>>);

impl EvaluationResult {
    /// The measurements as a table, a row for each encoder in the order of measuring.
    pub fn rows(&self) -> Vec<Row<'_>> {
        let mut rows: Vec<Row<'_>> = Vec::new();
        for Measurement { encoder, role, metric, value, .. } in &self.measurements {
            let row = match rows.iter().position(|row| (row.0, row.1) == (encoder, *role)) {
                Some(row) => row,
                None => {
                    rows.push((encoder, *role, vec![None; self.metrics.len()]));
                    rows.len() - 1
                }
            };
            if let Some(column) = self.metrics.iter().position(|known| known.name == *metric) {
                rows[row].2[column] = Some(*value);
            }
        }
        rows
    }

    /// A table for people on a terminal.
    pub fn table(&self) -> String {
        let images = self.images.iter().map(|of| format!("{} {} images", of.count, of.set));
        let images: Vec<String> = images.collect();
        let mut table = format!("{} ({})\n{:27}", self.title, images.join(", "), "");
        table.extend(self.metrics.iter().map(|metric| format!("{:>11}", metric.label)));
        for (encoder, role, values) in self.rows() {
            let role = if role == Role::Teacher { "" } else { role.name() };
            table += &format!("\n  {encoder:<16} {role:<8}");
            let cell = |(value, metric): (Option<f64>, &Metric)| match value {
                Some(value) => format!("{:>11}", metric.unit.show(value, 1)),
                None => format!("{:>11}", "–"),
            };
            table.extend(values.into_iter().zip(&self.metrics).map(cell));
        }
        table + "\n"
    }
}

impl EvaluationFile {
    /// Reads the file at `path`; nothing where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is of a later version than this one.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        Self::from_json(serde_json::from_slice(&text)?).map(Some)
    }

    fn from_json(json: Value) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            results: Vec<EvaluationResult>,
        }
        match json.get("version") {
            None => Ok(serde_json::from_value::<FirstVersion>(json)?.into()),
            Some(version) => {
                let known = FIRST_NUMBERED..=VERSION;
                ensure!(
                    version.as_u64().is_some_and(|version| known.contains(&version)),
                    "it is of version {version}, this program reads versions up to {VERSION}"
                );
                let Versioned { results } = serde_json::from_value(json)?;
                Ok(Self { results })
            }
        }
    }

    /// Writes the file at `path`, whole or not at all.
    ///
    /// # Errors
    /// The disk is full or not to be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        #[derive(Serialize)]
        struct Versioned<'a> {
            version: u64,
            results: &'a [EvaluationResult],
        }
        let file = Versioned { version: VERSION, results: &self.results };
        let mut text = serde_json::to_vec_pretty(&file)?;
        text.push(b'\n');
        durable::write(path, &text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The file as it was before it had a version.
#[derive(Deserialize)]
struct FirstVersion {
    step: Option<u64>,
    of: Option<FirstProvenance>,
    knn: Option<FirstKnn>,
}

#[derive(Deserialize)]
struct FirstProvenance {
    weights: String,
    config: FirstSettings,
    input_size: usize,
    mean: [f64; 3],
    std: [f64; 3],
    precision: Value,
}

#[derive(Deserialize)]
struct FirstSettings {
    knn: Value,
}

#[derive(Deserialize)]
struct FirstKnn {
    reference_pictures: u64,
    held_out_pictures: u64,
    temperature: f64,
    neighbours: Vec<u64>,
    encoders: Vec<FirstEncoder>,
}

#[derive(Deserialize)]
struct FirstEncoder {
    name: String,
    role: Role,
    /// For each number of neighbours.
    accuracies: Vec<f64>,
}

impl From<FirstVersion> for EvaluationFile {
    fn from(first: FirstVersion) -> Self {
        let FirstVersion { step, of, knn } = first;
        let of = of.map(|of| {
            let FirstProvenance { weights, config, input_size, mean, std, precision } = of;
            Provenance {
                weights,
                settings: config.knn,
                input_size,
                mean,
                std,
                precision,
                images: None,
                teacher: None,
            }
        });
        Self { results: knn.map(|knn| knn.into_result(step, of)).into_iter().collect() }
    }
}

impl FirstKnn {
    fn into_result(self, step: Option<u64>, of: Option<Provenance>) -> EvaluationResult {
        let images = [("reference", self.reference_pictures), ("held-out", self.held_out_pictures)];
        let metric = |k: &u64| Metric::share(format!("top1_k{k}"), format!("k = {k}"));
        let metrics: Vec<Metric> = self.neighbours.iter().map(metric).collect();
        let measurements = self.encoders.iter().flat_map(|encoder| {
            encoder.accuracies.iter().zip(&metrics).map(|(&value, metric)| Measurement {
                encoder: encoder.name.clone(),
                role: encoder.role,
                metric: metric.name.clone(),
                value,
                detail: None,
            })
        });
        EvaluationResult {
            name: "knn".into(),
            kind: "knn".into(),
            step,
            of,
            title: "k-NN top-1 accuracy".into(),
            description: format!(
                "Top-1 accuracy on {} held-out images by the votes of the k nearest of {} reference \
                 images, by the cosine of frozen features, weighted with temperature {}",
                HumanCount(self.held_out_pictures),
                HumanCount(self.reference_pictures),
                self.temperature
            ),
            images: images.map(|(set, count)| ImageCount { set: set.into(), count }).into(),
            measurements: measurements.collect(),
            metrics,
            main: Vec::new(),
        }
    }
}
