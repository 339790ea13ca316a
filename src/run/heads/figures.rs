//! Figures of heads over the epochs, and what is reported of them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::config::{HeadConfig, HeadsConfig};
use crate::artifacts::{EvaluationFile, EvaluationResult, Measurement, Metric, Role, Unit, paths};
use crate::data::pairs::PairSource;
use crate::durable;
use crate::eval::dense::{DEPTH_FIGURES, PUBLISHED_ENCODER, published_share};

/// The figures of one head after one epoch: a line of `figures.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochFigures {
    /// Epochs done.
    pub epoch: u64,
    /// Updates done.
    pub step: u64,
    pub head: String,
    /// By name, in the order of reporting; shares and errors of depth as they are, mIoU and pixel accuracy
    /// in %.
    pub figures: Vec<(String, f64)>,
}

/// The figures of a head over all epochs.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadResult {
    pub head: String,
    /// Of each figure its best value over all epochs of the test split, as the release reports it, and
    /// the epoch of that.
    pub best: Vec<(String, f64, u64)>,
    /// After the last epoch.
    pub last: Vec<(String, f64)>,
    /// The update whose loss was not finite; the head was not trained further.
    pub failed_at: Option<u64>,
}

/// The figures of all heads and epochs so far, in memory and on disk.
pub struct History {
    path: PathBuf,
    lines: Vec<EpochFigures>,
}

impl History {
    /// What the file says of the updates up to `step`; the rest is taken back.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: PathBuf, step: u64) -> Result<Self> {
        let lines = read(&path)?.into_iter().filter(|line| line.step <= step).collect();
        let history = Self { path, lines };
        history.write()?;
        Ok(history)
    }

    /// Adds the figures of an epoch; they are in the file when this returns.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, figures: impl IntoIterator<Item = EpochFigures>) -> Result<()> {
        self.lines.extend(figures);
        self.write()
    }

    /// Whether there are figures from after so many updates.
    pub fn has(&self, step: u64) -> bool {
        self.lines.iter().any(|line| line.step == step)
    }

    fn write(&self) -> Result<()> {
        let mut text = Vec::new();
        for line in &self.lines {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        durable::write(&self.path, &text)
    }

    /// What is reported of a head.
    pub fn result(&self, head: &str, failed_at: Option<u64>) -> HeadResult {
        let own: Vec<&EpochFigures> = self.lines.iter().filter(|line| line.head == head).collect();
        let last = own.last().map_or(Vec::new(), |line| line.figures.clone());
        let best = last.iter().map(|(name, _)| best_of(&own, name)).collect();
        HeadResult { head: head.to_string(), best, last, failed_at }
    }
}

/// The best value of the figure `name`, and the first epoch that has it.
fn best_of(lines: &[&EpochFigures], name: &str) -> (String, f64, u64) {
    let values = lines.iter().filter_map(|line| {
        let (_, value) = line.figures.iter().find(|(own, _)| own == name)?;
        Some((*value, line.epoch))
    });
    let is_better = |new: f64, old: f64| if less_is_better(name) { new < old } else { new > old };
    let best = values.reduce(|best, new| if is_better(new.0, best.0) { new } else { best });
    let (value, epoch) = best.unwrap_or((f64::NAN, 0));
    (name.to_string(), value, epoch)
}

/// Writes `evaluation.json`: of every head its figures, and what is published of it.
///
/// # Errors
/// The disk is full or not to be written.
pub fn write(config: &HeadsConfig, encoder: &str, results: &[HeadResult]) -> Result<()> {
    let mut found = as_results(config, (encoder, config.encoder.role()?), results);
    for (result, head) in found.iter_mut().zip(&config.heads) {
        result.measurements.extend(published(config, head));
    }
    EvaluationFile { results: found }.write(&paths::evaluation(&config.run.dir))
}

/// What is kept of heads on an `encoder`, a result for each: figures after the last epoch, and the best ones
/// of all epochs, named as what they are.
pub fn as_results(
    config: &HeadsConfig,
    encoder: (&str, Role),
    results: &[HeadResult],
) -> Vec<EvaluationResult> {
    results.iter().map(|result| as_result(config, encoder, result)).collect()
}

fn as_result(
    config: &HeadsConfig,
    (encoder, role): (&str, Role),
    result: &HeadResult,
) -> EvaluationResult {
    let (data, is_depth) = (config.data.name(), config.data.classes().is_none());
    let kind = if is_depth { "depth" } else { "segmentation" };
    let last = result.last.iter().map(|(name, value)| (name, LAST, *value));
    let best = result.best.iter().map(|(name, value, _)| (name, BEST, *value));
    let (mut metrics, mut measurements) = (Vec::new(), Vec::new());
    for (figure, when, value) in last.chain(best) {
        let (unit, value) = match is_depth {
            true if less_is_better(figure) => (Unit::Number, value),
            true => (Unit::Share, value),
            // Counted in %.
            false => (Unit::Share, value / 100.0),
        };
        let (name, label) = (format!("{figure}_{when}"), format!("{figure} {when}"));
        metrics.push(Metric { name: name.clone(), label, unit });
        let encoder = encoder.to_string();
        measurements.push(Measurement { encoder, role, metric: name, value, detail: None });
    }
    let main =
        result.last.first().map(|(figure, _)| [LAST, BEST].map(|when| format!("{figure}_{when}")));
    EvaluationResult {
        name: format!("{data}-{}", result.head),
        kind: kind.into(),
        step: config.encoder.step,
        of: None,
        title: format!("{} on {data}, head `{}`", capitalised(kind), result.head),
        description: format!(
            "A head on frozen features, {} epochs; `best` is the best of all epochs on the test split, \
             each figure by itself, as published figures are",
            config.training.epochs
        ),
        images: Vec::new(),
        metrics,
        main: main.into_iter().flatten().collect(),
        measurements,
    }
}

/// What [`as_result`] adds to the names of figures.
const LAST: &str = "last";
const BEST: &str = "best";

/// What is published of this head on this data set, of the encoder [`PUBLISHED_ENCODER`].
pub fn published(config: &HeadsConfig, head: &HeadConfig) -> Option<Measurement> {
    let PairSource::Known(known) = &config.data else { return None };
    let figure = if known.dataset.classes().is_none() { "d1" } else { "miou" };
    Some(Measurement {
        encoder: PUBLISHED_ENCODER.into(),
        role: Role::Published,
        metric: format!("{figure}_{BEST}"),
        value: published_share(known.dataset, head.kind),
        detail: None,
    })
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// Errors are better the smaller they are; shares, mIoU and accuracy the greater.
fn less_is_better(name: &str) -> bool {
    DEPTH_FIGURES[3..].contains(&name)
}

fn read(path: &Path) -> Result<Vec<EpochFigures>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| path.display().to_string())?,
    };
    let line = |line: &str| serde_json::from_str(line).with_context(|| path.display().to_string());
    text.lines().filter(|line| !line.is_empty()).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(epoch: u64, d1: f64, rmse: f64) -> EpochFigures {
        let figures = vec![("d1".to_string(), d1), ("rmse".to_string(), rmse)];
        EpochFigures { epoch, step: 10 * epoch, head: "linear".into(), figures }
    }

    /// Bests are kept for each figure by itself; what a resumed run does again is taken back.
    #[test]
    fn bests_are_each_figures_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("figures.jsonl");
        let mut history = History::open(path.clone(), 0).unwrap();
        history.add([line(1, 0.5, 3.0), line(2, 0.7, 4.0)]).unwrap();
        history.add([line(3, 0.6, 5.0)]).unwrap();
        let result = history.result("linear", None);
        assert_eq!(result.best, [("d1".to_string(), 0.7, 2), ("rmse".to_string(), 3.0, 1)]);
        assert_eq!(result.last, [("d1".to_string(), 0.6), ("rmse".to_string(), 5.0)]);
        let again = History::open(path, 20).unwrap();
        assert_eq!(again.result("linear", None).last[0].1, 0.7);
    }
}
