//! What is known of a run that is watched.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use toml::Table;

use super::log_lines::warning_in;
use super::tail::Tail;
use crate::artifacts::{
    AnyLine, EvaluationFile, EvaluationLine, EvaluationResult, Manifest, MetricsLine, RunLength,
    StepMetrics, paths,
};

/// Warnings that are kept, the newest.
const KEPT_WARNINGS: usize = 200;
/// Times between lines by whose median a run is judged.
const JUDGED_BY: usize = 20;
/// A run stands still if no line came for so many times the usual time between two, and so many seconds.
const STILL: (f64, f64) = (10.0, 60.0);

/// A run as its directory tells of it, so far as it was read.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    metrics: Tail,
    /// The file that the user named, or a log in the directory, and whether it was named.
    log: Option<(PathBuf, Tail)>,
    named_log: bool,
    length: RunLength,
    /// Steps of the whole run, as the newest checkpoint has them.
    total_of_checkpoint: Option<u64>,
    /// Names of what is trained, in the order of the newest line.
    pub names: Vec<String>,
    pub points: Vec<Point>,
    /// The newest line about a step.
    pub last: Option<MetricsLine>,
    /// The newest line of each evaluation that was made while training, by its name.
    pub measured: BTreeMap<String, EvaluationLine>,
    /// What was measured when the run ended.
    pub evaluations: Vec<EvaluationResult>,
    pub warnings: VecDeque<String>,
    /// Step of the newest checkpoint, and when it was written.
    pub checkpoint: Option<(u64, SystemTime)>,
    /// Lines that cannot be read.
    pub damaged: usize,
    /// More of the files is there to be read at once.
    pub has_more: bool,
    /// When `evaluation.json` was read last.
    evaluation_of: Option<SystemTime>,
}

/// What is drawn of a line about a step.
#[derive(Debug, Clone)]
pub struct Point {
    pub step: u64,
    /// Seconds since 1970.
    pub time: f64,
    /// In the order of [`Watched::names`].
    pub losses: Vec<f64>,
    /// In the order of [`Measure::ALL`]; not a number where a line does not tell.
    pub rates: [f32; Measure::ALL.len()],
}

/// What a line tells of a step beside losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    Images,
    LearningRate,
    DataWait,
    ExchangeWait,
    Flops,
    Mfu,
}

impl Measure {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 6] = [
        Self::Images,
        Self::LearningRate,
        Self::DataWait,
        Self::ExchangeWait,
        Self::Flops,
        Self::Mfu,
    ];

    /// Its value in `metrics`; not a number where they do not tell.
    pub fn of(self, metrics: &StepMetrics) -> f64 {
        let unknown = f64::NAN;
        match self {
            Self::Images => metrics.images_per_second,
            Self::LearningRate => metrics.learning_rate,
            Self::DataWait => metrics.data_wait_seconds,
            Self::ExchangeWait => metrics.exchange_wait_seconds.unwrap_or(unknown),
            Self::Flops => metrics.flops_per_second.unwrap_or(unknown),
            Self::Mfu => metrics.mfu.unwrap_or(unknown),
        }
    }
}

impl Watched {
    /// The run in the directory `path`, of which nothing is read yet; its log is the file `log`, or one in the
    /// directory.
    ///
    /// # Errors
    /// There is no such directory, or it holds something else.
    pub fn open(path: &Path, log: Option<PathBuf>) -> Result<Self> {
        let names = match fs::read_dir(path) {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>(),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("there is no directory {}: name the run.dir of a config", path.display())
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot list {}", path.display()));
            }
        };
        let is_run = [paths::config(path), paths::metrics(path), paths::checkpoints(path)];
        if !names.is_empty() && !is_run.iter().any(|part| part.exists()) {
            bail!(
                "{} is no run directory: it holds no config.toml, metrics.jsonl or checkpoints. A run's \
                 directory is the run.dir of its config",
                path.display()
            );
        }
        if let Some(log) = log.as_ref().filter(|log| !log.is_file()) {
            bail!("--log {}: there is no such file", log.display());
        }
        Ok(Self {
            path: path.to_path_buf(),
            metrics: Tail::new(paths::metrics(path)),
            named_log: log.is_some(),
            log: log.map(|log| (log.clone(), Tail::new(log))),
            length: RunLength::default(),
            total_of_checkpoint: None,
            names: Vec::new(),
            points: Vec::new(),
            last: None,
            measured: BTreeMap::new(),
            evaluations: Vec::new(),
            warnings: VecDeque::new(),
            checkpoint: None,
            damaged: 0,
            has_more: false,
            evaluation_of: None,
        })
    }

    /// Takes in what came since the last time; nothing in the directory is touched.
    ///
    /// # Errors
    /// A file is there and cannot be read.
    pub fn look(&mut self) -> Result<()> {
        let cannot = |path: PathBuf| format!("cannot read {}", path.display());
        let news = self.metrics.look().with_context(|| cannot(paths::metrics(&self.path)))?;
        if news.is_anew {
            self.forget_steps();
        }
        news.lines.iter().filter(|line| !line.is_empty()).for_each(|line| self.take_in(line));
        self.has_more = news.has_more;
        self.look_at_log()?;
        self.look_at_files();
        Ok(())
    }

    /// Reads until nothing more is there.
    ///
    /// # Errors
    /// Those of [`Self::look`].
    pub fn look_at_all(&mut self) -> Result<()> {
        self.look()?;
        while self.has_more {
            self.look()?;
        }
        Ok(())
    }

    fn forget_steps(&mut self) {
        self.names.clear();
        self.points.clear();
        self.measured.clear();
        self.last = None;
        self.damaged = 0;
    }

    fn take_in(&mut self, line: &[u8]) {
        match serde_json::from_slice(line) {
            Ok(AnyLine::Step(line)) => self.take_in_step(line),
            Ok(AnyLine::Evaluation(line)) => {
                self.measured.insert(line.evaluation.clone(), line);
            }
            Err(_) => self.damaged += 1,
        }
    }

    fn take_in_step(&mut self, line: MetricsLine) {
        let metrics = &line.metrics;
        let names = metrics.trainees.iter().map(|trainee| &trainee.name);
        if !self.names.iter().eq(names.clone()) {
            // Other names are another training, whose curves these are not.
            self.names = names.cloned().collect();
            self.points.clear();
        }
        // A step that stands again was taken again, and so were those after it.
        self.points.truncate(self.points.partition_point(|point| point.step < metrics.step));
        self.points.push(Point {
            step: metrics.step,
            time: line.time,
            losses: metrics.trainees.iter().map(|trainee| trainee.loss).collect(),
            rates: Measure::ALL.map(|rate| rate.of(metrics) as f32),
        });
        self.last = Some(line);
    }

    fn look_at_log(&mut self) -> Result<()> {
        if !self.named_log && self.log.is_none() {
            self.log = newest_log(&self.path).map(|path| (path.clone(), Tail::new(path)));
        }
        let Some((path, tail)) = &mut self.log else { return Ok(()) };
        let news = tail.look().with_context(|| format!("cannot read {}", path.display()))?;
        if news.is_anew {
            self.warnings.clear();
        }
        self.has_more |= news.has_more;
        self.warnings.extend(news.lines.iter().filter_map(|line| warning_in(line)));
        self.warnings.drain(..self.warnings.len().saturating_sub(KEPT_WARNINGS));
        Ok(())
    }

    /// Reads the small files; what cannot be read at this moment is as it was.
    fn look_at_files(&mut self) {
        let config = fs::read_to_string(paths::config(&self.path)).unwrap_or_default();
        if let Ok(table) = config.parse::<Table>() {
            self.length = RunLength::of(&table);
        }
        let newest = newest_checkpoint(&self.path);
        if newest.map(|(step, _)| step) != self.checkpoint.map(|(step, _)| step) {
            self.total_of_checkpoint =
                newest.and_then(|(step, _)| total_steps_of(&self.path, step));
        }
        self.checkpoint = newest;
        let evaluation = paths::evaluation(&self.path);
        let modified = fs::metadata(&evaluation).and_then(|facts| facts.modified()).ok();
        if modified != self.evaluation_of {
            self.evaluation_of = modified;
            let file = EvaluationFile::read(&evaluation).ok().flatten();
            self.evaluations = file.unwrap_or_default().results;
        }
    }

    /// The directory, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory's own name.
    pub fn name(&self) -> String {
        let whole = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        whole.file_name().map_or("/".into(), |name| name.to_string_lossy().into_owned())
    }

    /// The log that warnings are read from.
    pub fn log(&self) -> Option<&Path> {
        self.log.as_ref().map(|(path, _)| &**path)
    }

    /// Steps of the whole run, where that is known.
    pub fn total_steps(&self) -> Option<u64> {
        let recorded = self.last.as_ref().map(|line| (line.metrics.step, line.metrics.epoch));
        self.total_of_checkpoint.or(self.length.total_steps(recorded))
    }

    /// Whether all steps are done.
    pub fn is_complete(&self) -> bool {
        let last = self.last.as_ref().map(|line| line.metrics.step);
        last.zip(self.total_steps()).is_some_and(|(last, total)| last >= total)
    }

    /// Seconds from the newest line, of a step or an evaluation, to `now`.
    pub fn age(&self, now: f64) -> Option<f64> {
        let measured = self.measured.values().map(|line| line.time);
        let newest = measured.chain(self.last.iter().map(|line| line.time)).reduce(f64::max)?;
        // Clocks of two machines differ.
        Some((now - newest).max(0.0))
    }

    /// The usual time between two lines, in seconds: the median of the last ones.
    pub fn usual_pause(&self) -> Option<f64> {
        let newest = &self.points[self.points.len().saturating_sub(JUDGED_BY + 1)..];
        let mut pauses: Vec<f64> = newest.windows(2).map(|two| two[1].time - two[0].time).collect();
        pauses.sort_by(f64::total_cmp);
        pauses.get(pauses.len() / 2).copied()
    }

    /// Whether an unfinished run tells nothing for much longer than it does usually.
    pub fn stands_still(&self, now: f64) -> bool {
        let (times, least) = STILL;
        let limit = (times * self.usual_pause().unwrap_or(0.0)).max(least);
        !self.is_complete() && self.age(now).is_some_and(|age| age > limit)
    }
}

/// The newest file of the directory that is named as a log.
fn newest_log(run: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(run).ok()?.flatten();
    let logs = entries.filter(|entry| {
        let path = entry.path();
        path.extension().is_some_and(|extension| extension == "log") && path.is_file()
    });
    let newest = logs.max_by_key(|log| log.metadata().and_then(|facts| facts.modified()).ok());
    newest.map(|log| log.path())
}

fn newest_checkpoint(run: &Path) -> Option<(u64, SystemTime)> {
    let entries = fs::read_dir(paths::checkpoints(run)).ok()?.flatten();
    let steps = entries.filter_map(|entry| paths::step_of_checkpoint(entry.file_name().to_str()?));
    let step = steps.max()?;
    let manifest = paths::manifest(&paths::checkpoint(run, step));
    let written = fs::metadata(manifest).and_then(|facts| facts.modified()).ok()?;
    Some((step, written))
}

fn total_steps_of(run: &Path, step: u64) -> Option<u64> {
    let manifest = fs::read(paths::manifest(&paths::checkpoint(run, step))).ok()?;
    let manifest: Manifest = serde_json::from_slice(&manifest).ok()?;
    Some(manifest.identity.total_steps).filter(|total| *total > 0)
}
