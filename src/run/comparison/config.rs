//! Which encoders are compared, by what.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::config::{
    Check, ConfigError, DataConfig, DistributedConfig, KeyError, RunConfig, TrainConfig,
    read_table, read_tables, require,
};
use crate::data::image::Exif;
use crate::eval::{self, NamedEvaluation};
use crate::run::frozen_encoder::EncoderSource;
use crate::run::heads::HeadsConfig;

/// The key of a table of heads that names a file with more of it.
const FILE: &str = "file";
/// What a table of heads has of its own; the rest is that of the comparison.
const OF_COMPARISON: [&str; 3] = ["run", "encoder", "distributed"];

/// A comparison of encoders.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparisonConfig {
    pub run: RunConfig,
    pub distributed: DistributedConfig,
    pub images: ImagesConfig,
    /// By name, an [`EncoderSource`] each.
    pub encoders: Table,
    /// As in a run's configuration, with every default.
    pub evaluation: Table,
    /// By name, the tables of a [`HeadsConfig`] without encoder and run.
    pub heads: Table,
}

/// How evaluations without heads see images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesConfig {
    /// Side in pixels; left out: that of the run, or of the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_size: Option<usize>,
    /// Images in one forward pass.
    pub batch_size: usize,
    /// Processes that decode; 0 takes one per core.
    pub workers: usize,
    /// As `data.label`, `data.classes` and `data.exif` of a run.
    pub label: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    pub exif: Exif,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        let (classes, exif) = Default::default();
        Self { input_size: None, batch_size: 64, workers: 0, label: "cls".into(), classes, exif }
    }
}

/// The tables as a file has them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    run: RunConfig,
    #[serde(default)]
    distributed: DistributedConfig,
    #[serde(default)]
    images: ImagesConfig,
    encoders: Table,
    #[serde(default)]
    evaluation: Table,
    #[serde(default)]
    heads: Table,
}

impl ComparisonConfig {
    /// Reads `file` with `overrides` of the form `run.device=cpu`.
    ///
    /// # Errors
    /// A file cannot be read, a key is unknown or of the wrong type, or nothing is to be compared.
    pub fn load(file: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let in_file =
            |(key, message): KeyError| ConfigError { file: file.to_path_buf(), key, message };
        let tables: Tables = read_tables(read_table(file, overrides)?).map_err(in_file)?;
        let Tables { run, distributed, images, encoders, evaluation, heads } = tables;
        let mut merged = Table::new();
        for (name, table) in heads {
            let table = with_file(&name, table).map_err(in_file)?;
            merged.insert(name, Value::Table(table));
        }
        let evaluation = eval::resolve(&evaluation).map_err(in_file)?;
        let config = Self { run, distributed, images, encoders, evaluation, heads: merged };
        config.check().map_err(in_file)?;
        Ok(config)
    }

    /// As TOML, every default of evaluations resolved.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every config value has a TOML form")
    }

    fn check(&self) -> Check {
        require(!self.encoders.is_empty(), "encoders", || {
            "found none, expected at least one [encoders.NAME] table".into()
        })?;
        require(!(self.evaluation.is_empty() && self.heads.is_empty()), "evaluation", || {
            "found neither [evaluation.NAME] nor [heads.NAME] tables, expected something to measure"
                .into()
        })?;
        require(self.images.batch_size > 0, "images.batch_size", || "found 0".into())?;
        for name in self.encoders.keys() {
            let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            require(is_plain && !name.starts_with('.'), format!("encoders.{name}"), || {
                "expected a name of letters, digits, `-`, `_`, `.`".into()
            })?;
        }
        self.sources()?;
        for one in self.evaluations()? {
            require(one.every.is_none(), format!("evaluation.{}.every", one.name), || {
                "nothing is trained here: leave it out".into()
            })?;
        }
        let source = EncoderSource::of_weights(PathBuf::from("weights"), None);
        self.heads
            .keys()
            .try_for_each(|name| self.heads_on(name, &source, PathBuf::from("run")).map(|_| ()))
    }

    /// The encoders as they are named.
    ///
    /// # Errors
    /// A key is unknown or of the wrong type, or there is neither weights nor a run.
    pub fn sources(&self) -> Result<Vec<(String, EncoderSource)>, KeyError> {
        let source = |(name, value): (&String, &Value)| {
            let at = |key: &str| match key {
                "" => format!("encoders.{name}"),
                _ => format!("encoders.{name}.{key}"),
            };
            let table = value.as_table().cloned().ok_or_else(|| {
                (at(""), format!("found {value}, expected a table with `weights` or `run`"))
            })?;
            let source: EncoderSource =
                read_tables(table).map_err(|(key, message)| (at(&key), message))?;
            require(source.weights.is_some() != source.run.is_some(), at(""), || {
                "found neither or both of `weights` and `run`, expected one".into()
            })?;
            Ok((name.clone(), source))
        };
        self.encoders.iter().map(source).collect()
    }

    /// The evaluations without heads.
    ///
    /// # Errors
    /// Those of [`eval::read`].
    pub fn evaluations(&self) -> Result<Vec<NamedEvaluation>, KeyError> {
        eval::read(&self.evaluation)
    }

    /// The training, in the directory `dir`, of the heads `name` on an encoder.
    ///
    /// # Errors
    /// A key is unknown or of the wrong type, or values contradict each other.
    pub fn heads_on(
        &self,
        name: &str,
        encoder: &EncoderSource,
        dir: PathBuf,
    ) -> Result<HeadsConfig, KeyError> {
        let mut table = self.heads.get(name).and_then(Value::as_table).cloned().unwrap_or_default();
        table.entry("heads").or_insert_with(|| {
            vec![Value::Table(Table::from_iter([("kind".to_string(), "linear".into())]))].into()
        });
        let run = RunConfig { dir, ..self.run.clone() };
        for (key, value) in [
            ("run", Value::try_from(run)),
            ("encoder", Value::try_from(encoder)),
            ("distributed", Value::try_from(&self.distributed)),
        ] {
            table.insert(key.into(), value.expect("every config value has a TOML form"));
        }
        HeadsConfig::from_table(table)
            .map_err(|(key, message)| (format!("heads.{name}.{key}"), message))
    }

    /// What the parts that every training has in common need to know.
    pub(super) fn train(&self) -> TrainConfig {
        TrainConfig {
            run: self.run.clone(),
            distributed: self.distributed.clone(),
            ..TrainConfig::minimal(self.run.dir.clone())
        }
    }

    /// How images of this size are read.
    pub(super) fn data(&self, input_size: usize, mean: [f64; 3], std: [f64; 3]) -> DataConfig {
        let ImagesConfig { batch_size, workers, exif, .. } = self.images;
        let (label, classes) = (self.images.label.clone(), self.images.classes.clone());
        // Bad images are counted, not a reason to stop.
        let max_failed_share = 1.0;
        let minimal = DataConfig::minimal(Vec::new());
        DataConfig {
            input_size,
            batch_size,
            workers,
            mean,
            std,
            label,
            classes,
            exif,
            max_failed_share,
            ..minimal
        }
    }
}

/// The table of the heads `name`, over that of the file which it may name.
fn with_file(name: &str, table: Value) -> Result<Table, KeyError> {
    let at = |key: &str| format!("heads.{name}{key}");
    let Value::Table(mut table) = table else {
        return Err((at(""), format!("found {table}, expected a table")));
    };
    if let Some(key) = OF_COMPARISON.iter().find(|key| table.contains_key(**key)) {
        return Err((at(&format!(".{key}")), "is that of all heads: leave it out".into()));
    }
    match table.remove(FILE) {
        None => Ok(table),
        Some(Value::String(file)) => {
            let mut base = read_table(Path::new(&file), &[])
                .map_err(|error| (at(&format!(".{FILE}")), error.to_string()))?;
            OF_COMPARISON.iter().for_each(|key| _ = base.remove(*key));
            lay_over(&mut base, table);
            Ok(base)
        }
        Some(other) => Err((at(&format!(".{FILE}")), format!("found {other}, expected a path"))),
    }
}

/// Sets in `base` what `over` says, table by table.
fn lay_over(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(value)) => lay_over(inner, value),
            (_, value) => _ = base.insert(key, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, more: &[(&str, &str)]) -> Result<ComparisonConfig, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in more {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let file = folder.path().join("all.toml");
        std::fs::write(&file, text.replace("DIR", folder.path().to_str().unwrap())).unwrap();
        ComparisonConfig::load(&file, &[])
    }

    const ENCODER: &str = "run.dir = \"r\"\n[encoders.one]\nweights = \"w\"\n";
    const HEADS: &str = "[run]\ndir = \"elsewhere\"\n[encoder]\nweights = \"other\"\n\
                         [data]\ndataset = \"pascal\"\nroot = \"voc\"\n[[heads]]\nkind = \"dpt\"\n";

    /// A file of heads gives what the table leaves out; run and encoder are the comparison's.
    #[test]
    fn heads_may_name_a_file() {
        let text = format!(
            "{ENCODER}[heads.voc]\nfile = \"DIR/h.toml\"\ndata.root = \"mine\"\ntraining.epochs = 3\n"
        );
        let config = load(&text, &[("h.toml", HEADS)]).unwrap();
        let source = EncoderSource::of_weights("w".into(), None);
        let heads = config.heads_on("voc", &source, "here".into()).unwrap();
        assert_eq!((heads.run.dir.to_str(), &heads.encoder), (Some("here"), &source));
        assert_eq!((heads.training.epochs, heads.heads[0].name.as_str()), (3, "dpt"));
        let toml = heads.to_toml();
        assert!(
            toml.contains("root = \"mine\"") && toml.contains("dataset = \"pascal\""),
            "{toml}"
        );
    }

    #[test]
    fn mistakes_are_named_by_their_key() {
        let knn = "[evaluation.knn]\nreference = [\"a\"]\nheld_out = [\"b\"]\n";
        for (text, key, says) in [
            (format!("run.dir = \"r\"\nencoders = {{}}\n{knn}"), "encoders", "found none"),
            (ENCODER.to_string(), "evaluation", "something to measure"),
            (format!("{ENCODER}run = \"x\"\n{knn}"), "encoders.one", "neither or both"),
            (format!("{ENCODER}[encoders.\"a/b\"]\nrun = \"x\"\n{knn}"), "encoders.a/b", "letters"),
            (format!("{ENCODER}weight = \"x\"\n{knn}"), "encoders.one", "did you mean `weights`"),
            (format!("{ENCODER}{knn}every = 5\n"), "evaluation.knn.every", "leave it out"),
            (format!("{ENCODER}[heads.a]\ndata = 3"), "heads.a.data", "expected a table"),
            (format!("{ENCODER}[heads.a]\nfile = \"none.toml\""), "heads.a.file", "cannot read"),
            (format!("{ENCODER}[heads.a.encoder]\nweights = \"x\""), "heads.a.encoder", "leave it"),
        ] {
            let error = load(&text, &[]).unwrap_err();
            assert!(error.key.starts_with(key), "{text}: {error}");
            assert!(error.message.contains(says), "{text}: {error}");
        }
    }
}
