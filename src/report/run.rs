//! What a run directory holds, finished or not.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image::ImageFormat;

use super::plan::Plan;
use crate::artifacts::{
    EvaluationFile, EvaluationLine, EvaluationResult, MetricsLine, MetricsLines, StepMetrics, paths,
};

/// Images of reconstructions besides the newest that a page shows.
const EARLIER_RECONSTRUCTIONS: usize = 8;

/// A run as its directory shows it.
#[derive(Debug)]
pub struct Run {
    /// The directory, as it was named.
    pub(super) path: PathBuf,
    /// The directory's own name.
    pub(super) name: String,
    /// The text of `config.toml`.
    pub(super) config: String,
    pub(super) plan: Plan,
    /// What is recorded of training, in the order of steps, each step once.
    pub(super) records: Vec<MetricsLine>,
    /// What was measured while training, in the order of steps.
    pub(super) measured: Vec<EvaluationLine>,
    /// Step of the newest checkpoint.
    pub(super) checkpoint: Option<u64>,
    /// What was measured of encoders.
    pub(super) evaluations: Vec<EvaluationResult>,
    /// The newest, and earlier ones evenly spread, in the order of steps.
    pub(super) reconstructions: Vec<Reconstruction>,
    /// How many there are in all.
    pub(super) reconstruction_count: usize,
    pub(super) exports: Vec<Export>,
    /// What could not be read, a sentence each.
    notes: Vec<String>,
}

/// A sheet of reconstructed images.
#[derive(Debug)]
pub struct Reconstruction {
    pub step: u64,
    /// The file as it is.
    pub png: Vec<u8>,
    /// Width and height, in pixels.
    pub size: (u32, u32),
}

/// A folder of `exports/`.
#[derive(Debug)]
pub struct Export {
    pub name: String,
    /// Names and bytes of its files.
    pub files: Vec<(String, u64)>,
}

impl Run {
    /// Reads the run directory at `path`. A run that goes on, was killed or lacks a part can be read
    /// too; what is damaged is left out and named in [`Self::notes`].
    ///
    /// # Errors
    /// It is no run directory, or it cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let config_path = paths::config(path);
        let config = match fs::read_to_string(&config_path) {
            Err(error)
                if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) =>
            {
                bail!(
                    "{} is no run directory: it holds no config.toml. A run's directory is the \
                     run.dir of its config, and is made when the run begins",
                    path.display()
                )
            }
            other => other.with_context(|| format!("cannot read {}", config_path.display()))?,
        };
        let plan =
            Plan::read(&config).with_context(|| format!("{} is no TOML", config_path.display()))?;
        let mut notes = Vec::new();
        let name = fs::canonicalize(path)?;
        let name = name.file_name().map_or("/".into(), |name| name.to_string_lossy().into_owned());
        let images = reconstruction_files(&paths::reconstructions(path))?;
        let (records, measured) = records(path, &mut notes)?;
        Ok(Self {
            path: path.to_path_buf(),
            name,
            config,
            plan,
            records,
            measured,
            checkpoint: newest_checkpoint(&paths::checkpoints(path))?,
            evaluations: evaluations(&paths::evaluation(path), &mut notes),
            reconstruction_count: images.len(),
            reconstructions: reconstructions(images, &mut notes)?,
            exports: exports(&paths::exports(path))?,
            notes,
        })
    }

    /// What could not be read, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What is recorded of each step, in the order of steps.
    pub(super) fn steps(&self) -> impl DoubleEndedIterator<Item = &StepMetrics> {
        self.records.iter().map(|record| &record.metrics)
    }

    /// Steps of the whole run, where that is known.
    pub(super) fn total_steps(&self) -> Option<u64> {
        self.plan.total_steps(self.steps().last().map(|step| (step.step, step.epoch)))
    }

    /// Seconds that the steps up to the last record took, without what was begun again.
    pub(super) fn seconds(&self) -> f64 {
        let before = std::iter::once(0).chain(self.steps().map(|step| step.step));
        let known = self.steps().zip(before).filter(|(step, _)| step.step_seconds.is_finite());
        known.map(|(step, before)| step.step_seconds * (step.step - before) as f64).sum()
    }

    /// Names of what is trained, in the order of the last record.
    pub(super) fn trained(&self) -> Vec<&str> {
        let last = self.steps().last().map_or(&[][..], |step| &step.trainees);
        last.iter().map(|trainee| trainee.name.as_str()).collect()
    }
}

/// The bytes of a file; `None` where there is none.
fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Names of what a folder holds, sorted; none where there is no folder.
fn names_in(folder: &Path) -> Result<Vec<String>> {
    let fail = || format!("cannot list {}", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(fail)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.with_context(fail)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Lines of the metrics by step; the later one where a step stands twice.
fn records(run: &Path, notes: &mut Vec<String>) -> Result<(Vec<MetricsLine>, Vec<EvaluationLine>)> {
    let path = paths::metrics(run);
    let MetricsLines { lines, evaluations, damaged } =
        MetricsLines::read(run).with_context(|| format!("cannot read {}", path.display()))?;
    if damaged > 0 {
        let lines = if damaged == 1 { "1 line" } else { &format!("{damaged} lines") };
        notes.push(format!(
            "{lines} of {} cannot be read (left out here); a run that is killed may leave its last \
             line torn",
            path.display()
        ));
    }
    let by_step: BTreeMap<u64, MetricsLine> =
        lines.into_iter().map(|line| (line.metrics.step, line)).collect();
    let measured: BTreeMap<(u64, String), EvaluationLine> =
        evaluations.into_iter().map(|line| ((line.step, line.evaluation.clone()), line)).collect();
    Ok((by_step.into_values().collect(), measured.into_values().collect()))
}

fn newest_checkpoint(folder: &Path) -> Result<Option<u64>> {
    Ok(names_in(folder)?.iter().filter_map(|name| paths::step_of_checkpoint(name)).max())
}

fn evaluations(path: &Path, notes: &mut Vec<String>) -> Vec<EvaluationResult> {
    match EvaluationFile::read(path) {
        Ok(file) => file.unwrap_or_default().results,
        Err(error) => {
            notes.push(format!("{} cannot be read: {error:#}", path.display()));
            Vec::new()
        }
    }
}

/// Steps and files of all reconstructions, by step.
fn reconstruction_files(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let names = names_in(folder)?.into_iter();
    let mut files: Vec<_> = names
        .filter_map(|name| Some((paths::step_of_reconstruction(&name)?, folder.join(name))))
        .collect();
    files.sort();
    Ok(files)
}

/// Those of `files` that a page shows.
fn reconstructions(
    mut files: Vec<(u64, PathBuf)>,
    notes: &mut Vec<String>,
) -> Result<Vec<Reconstruction>> {
    let newest = files.pop();
    let earlier = evenly(&files, EARLIER_RECONSTRUCTIONS).into_iter().chain(newest.as_ref());
    let mut read = Vec::new();
    for (step, path) in earlier {
        let Some(png) = read_if_there(path)? else { continue };
        match image::load_from_memory_with_format(&png, ImageFormat::Png) {
            Ok(image) => {
                let size = (image.width(), image.height());
                read.push(Reconstruction { step: *step, png, size });
            }
            Err(error) => notes.push(format!("{} cannot be read: {error}", path.display())),
        }
    }
    Ok(read)
}

/// At most `most` of `items`, evenly spread, the first one included.
fn evenly<T>(items: &[T], most: usize) -> Vec<&T> {
    let count = items.len().min(most);
    (0..count).map(|number| &items[number * items.len() / count]).collect()
}

/// Folders in `exports/`, without those that are being written.
fn exports(folder: &Path) -> Result<Vec<Export>> {
    let mut found = Vec::new();
    for name in names_in(folder)?.into_iter().filter(|name| !name.starts_with('.')) {
        let inside = folder.join(&name);
        if !inside.is_dir() {
            continue;
        }
        let sized = |file: String| {
            let bytes = fs::metadata(inside.join(&file)).map_or(0, |metadata| metadata.len());
            (file, bytes)
        };
        let files = names_in(&inside)?.into_iter().map(sized).collect();
        found.push(Export { name, files });
    }
    Ok(found)
}
