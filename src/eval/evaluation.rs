//! What an evaluation is: a table of settings, sets of images, and figures made of features.

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use toml::Table;

use super::extract::{DenseBatch, Encoder, Features};
use crate::artifacts::{Measurement, Metric, Role};
use crate::config::{Check, KeyError, read_tables, require};
use crate::data::pairs::{PairSource, Split};
use crate::dist::ProcessGroup;

/// A measure of how good an encoder's frozen features are.
///
/// It names its images and what it needs of their features; each set of images is then gone over
/// once for all encoders and all evaluations that name it, and an evaluation's [`FeatureConsumer`]
/// takes what comes out.
pub trait Evaluation {
    /// What the figures are, as a heading: `k-NN top-1 accuracy`.
    fn title(&self) -> String;

    /// How figures from so many images of each of [`Self::image_sets`] came about, in a sentence
    /// without a full stop.
    fn description(&self, counts: &[u64]) -> String;

    /// The figures of each encoder, in the order of a table's columns.
    fn metrics(&self) -> Vec<Metric>;

    /// Names of the metrics that stand for the evaluation beside others.
    fn main_metrics(&self) -> Vec<String> {
        self.metrics().into_iter().take(1).map(|metric| metric.name).collect()
    }

    /// The images, in the order in which they have to be gone over.
    fn image_sets(&self) -> Vec<ImageSet>;

    /// Whether so many images of each set suffice: asked before anything is trained or computed.
    ///
    /// # Errors
    /// They do not: the setting at fault, and why.
    fn check(&self, counts: &[u64]) -> Result<(), KeyError>;

    /// Begins to measure `subjects`, which lie on the device of `group`. All its processes do so.
    fn begin<'a>(
        &'a self,
        subjects: &'a [Subject<'a>],
        group: &'a ProcessGroup,
    ) -> Result<Box<dyn FeatureConsumer + 'a>>;

    /// What `distill eval --json` says of `measurements` of one encoder: each metric by its name.
    fn to_json(&self, measurements: &[Measurement]) -> Map<String, Value> {
        metrics_by_name(measurements)
    }
}

/// Values of one encoder's `measurements` by their metrics.
pub fn metrics_by_name(measurements: &[Measurement]) -> Map<String, Value> {
    measurements.iter().map(|one| (one.metric.clone(), one.value.into())).collect()
}

/// An evaluation's table in a configuration.
pub trait Settings: Evaluation + Serialize + DeserializeOwned + 'static {
    /// The kind of evaluation, which is its key under `[evaluation]` and its name after `distill eval`.
    const KIND: &str;

    /// Checks between values, before any file is touched.
    ///
    /// # Errors
    /// The setting at fault, what was found and what was expected.
    fn validate(&self) -> Check;

    /// The table with every default.
    fn to_table(&self) -> Table {
        Table::try_from(self).expect("every setting has a TOML form")
    }
}

/// Takes features while images are gone over, and has figures in the end.
pub trait FeatureConsumer {
    /// Takes dense features of images of set number `set`, which asked for them. Sets come in their
    /// order, a set's images in theirs, with each encoder in turn; of several processes each sees a stretch
    /// of its own.
    fn take(&mut self, _set: usize, _batch: &DenseBatch<'_>) -> Result<()> {
        Ok(())
    }

    /// Told that images of set number `set` are all seen. All processes call it, also those that had none
    /// of the images.
    ///
    /// # Errors
    /// Another process failed, or the device has no memory left.
    fn end_of_set(&mut self, _set: usize) -> Result<()> {
        Ok(())
    }

    /// The figures, given the pooled features `[set][encoder]` of all images, which every process has. All
    /// processes call it, and give the same figures.
    ///
    /// # Errors
    /// The device has no memory left, or the features do not suffice.
    fn finish(self: Box<Self>, pooled: &[&[Features]]) -> Result<Vec<Measurement>>;
}

/// A [`FeatureConsumer`] of pooled features alone.
pub struct FromPooled<F>(pub F);

impl<F> FeatureConsumer for FromPooled<F>
where
    F: FnOnce(&[&[Features]]) -> Result<Vec<Measurement>>,
{
    fn finish(self: Box<Self>, pooled: &[&[Features]]) -> Result<Vec<Measurement>> {
        (self.0)(pooled)
    }
}

/// An encoder that is measured.
pub struct Subject<'a> {
    pub name: &'a str,
    pub role: Role,
    /// None where its features were kept in files: there are pooled ones, and no images.
    pub encoder: Option<Encoder<'a>>,
}

impl Subject<'_> {
    /// What looks at images.
    ///
    /// # Errors
    /// Its features were kept in files.
    pub fn encoder(&self) -> Result<Encoder<'_>> {
        self.encoder.with_context(|| format!("{} is known by stored features alone", self.name))
    }

    /// A figure of this encoder.
    pub fn measurement(&self, metric: &str, value: f64) -> Measurement {
        let (encoder, metric) = (self.name.to_string(), metric.to_string());
        Measurement { encoder, role: self.role, metric, value, detail: None }
    }
}

/// Images that an evaluation looks at, their centres at the encoder's input size.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageSet {
    /// What they are for, in a word or two: `reference`, `held-out`.
    pub title: &'static str,
    /// The setting that names them.
    pub field: &'static str,
    pub images: SetImages,
    /// Most images that are taken, spread evenly over all. `None` takes all.
    pub most: Option<u64>,
    /// Whether dense features are asked for beside pooled ones.
    pub is_dense: bool,
}

/// Where the images of a set are, and what is known of them.
#[derive(Debug, Clone, PartialEq)]
pub enum SetImages {
    /// Shards or folders of images that have a class each.
    Labelled(Vec<String>),
    /// A split of pairs of an image and a map of classes.
    Pairs(Box<PairSource>, Split),
}

impl ImageSet {
    /// The sets of an evaluation that classifies held-out images by reference images, given the
    /// settings `reference` and `held_out`, `most_reference` and `most_held_out`.
    pub fn reference_and_held_out(shards: [&[String]; 2], most: [Option<u64>; 2]) -> Vec<Self> {
        let set = |title, field, number: usize| Self {
            title,
            field,
            images: SetImages::Labelled(shards[number].to_vec()),
            most: most[number],
            is_dense: false,
        };
        vec![set("reference", "reference", 0), set("held-out", "held_out", 1)]
    }

    /// # Errors
    /// No shards are named, or no images may be taken: the setting, found and expected.
    pub fn validate(&self) -> Check {
        let is_named = !matches!(&self.images, SetImages::Labelled(shards) if shards.is_empty());
        require(is_named, self.field, || {
            "found an empty list, expected at least one path or pattern".into()
        })?;
        require(self.most != Some(0), format!("most_{}", self.field), || {
            "found 0, expected at least one image".into()
        })
    }
}

/// An evaluation and its table with every default.
type WithTable = (Box<dyn Evaluation>, Table);

/// A kind of evaluation: how its table is read.
#[derive(Clone, Copy)]
pub struct Kind {
    /// [`Settings::KIND`].
    pub name: &'static str,
    read: fn(Table) -> Result<WithTable, KeyError>,
}

impl Kind {
    pub const fn new<S: Settings>() -> Self {
        Self { name: S::KIND, read: read::<S> }
    }

    /// The evaluation that `table` describes, and the table with every default.
    ///
    /// # Errors
    /// The setting at fault, what was found and what was expected.
    pub fn read(&self, table: Table) -> Result<WithTable, KeyError> {
        (self.read)(table)
    }
}

fn read<S: Settings>(table: Table) -> Result<WithTable, KeyError> {
    let settings: S = read_tables(table)?;
    settings.validate()?;
    let table = settings.to_table();
    Ok((Box::new(settings), table))
}
