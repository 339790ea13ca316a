//! `metrics.jsonl`: its lines, as they are written and read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use super::evaluation::Measurement;
use super::{loss_terms, paths};

/// A line of the file about a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricsLine {
    /// Seconds since 1970 (UTC).
    pub time: f64,
    #[serde(flatten)]
    pub metrics: StepMetrics,
}

/// A line of the file about an evaluation that was made while training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationLine {
    /// Seconds since 1970 (UTC).
    pub time: f64,
    /// Optimizer steps that were done.
    pub step: u64,
    /// Its key under `[evaluation]`.
    pub evaluation: String,
    /// How long it took.
    pub seconds: f64,
    /// Of all that is trained.
    pub measurements: Vec<Measurement>,
    /// Tells settings and images from any others; earlier versions did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
}

/// What a `metrics.jsonl` holds, in the order of the file.
#[derive(Debug, Default)]
pub struct MetricsLines {
    pub lines: Vec<MetricsLine>,
    pub evaluations: Vec<EvaluationLine>,
    /// Lines that cannot be read; a run that is killed may leave its last one torn.
    pub damaged: usize,
}

/// Any line of the file.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum AnyLine {
    Step(MetricsLine),
    Evaluation(EvaluationLine),
}

impl MetricsLines {
    /// Reads the metrics of the run directory `run`; none where nothing is recorded yet.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(run: &Path) -> io::Result<Self> {
        let file = match File::open(paths::metrics(run)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            other => BufReader::new(other?),
        };
        let mut read = Self::default();
        for line in file.split(b'\n') {
            let line = line?;
            match serde_json::from_slice(&line) {
                Ok(AnyLine::Step(line)) => read.lines.push(line),
                Ok(AnyLine::Evaluation(line)) => read.evaluations.push(line),
                Err(_) if line.is_empty() => {}
                Err(_) => read.damaged += 1,
            }
        }
        Ok(read)
    }
}

/// The metrics of one optimizer step: a line of `metrics.jsonl`.
///
/// In JSON a number that is not finite (NaN, ±infinity) is `null`, which is read as NaN; a loss term
/// that the configuration turns off and a measurement that the device does not offer are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Optimizer steps done since the run began; the first one is 1.
    pub step: u64,
    /// Epochs done, in the schedule's unit.
    pub epoch: f64,
    /// Learning rate of this step.
    #[serde(default = "unknown", deserialize_with = "number")]
    pub learning_rate: f64,
    /// Images trained on since the run began, over all processes.
    pub images_seen: u64,
    /// Images a second over all processes, since the previous record.
    #[serde(default = "unknown", deserialize_with = "number")]
    pub images_per_second: f64,
    /// Mean part of a step spent waiting for images since the previous record, in seconds.
    #[serde(default = "unknown", deserialize_with = "number")]
    pub data_wait_seconds: f64,
    /// Mean part of a step that the device of rank 0 waited for gradients after its last backward pass,
    /// since the previous record, in seconds. Left out where no launcher started the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange_wait_seconds: Option<f64>,
    /// Mean wall time of a step, waiting included, since the previous record, in seconds.
    #[serde(default = "unknown", deserialize_with = "number")]
    pub step_seconds: f64,
    /// In the configuration's order. The key on disk is `students`, from before pre-training existed.
    #[serde(rename = "students")]
    pub trainees: Vec<TraineeMetrics>,
    /// Floating-point operations a second of one process, by the recipe's count of those of an image (what is
    /// computed again or left out does not count).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flops_per_second: Option<f64>,
    /// That over what the maker's data sheet says of the GPU, in `[0, 1]`; none where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
    /// Peak memory of the training device so far, in bytes; that of the process on a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// Images that did not decode since the run began.
    #[serde(rename = "failed_pictures", default)]
    pub failed_images: u64,
    /// What was computed on, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Whom the others waited for most, where ranks were compared since the previous record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowest_rank: Option<SlowestRank>,
}

/// The rank of a run that the others waited for most over some steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlowestRank {
    pub rank: usize,
    /// Its node and process number.
    pub host: String,
    /// Steps that were compared.
    pub steps: u64,
    /// Mean part of a step in which it did not wait for the others, in seconds.
    pub seconds: f64,
    /// The median of that over all ranks.
    pub median_seconds: f64,
    /// In what it differs most from the median: `data`, `passes` or `saving`.
    pub part: String,
}

/// How much slower than the median a straggler is.
const STRAGGLING: f64 = 0.1;

impl SlowestRank {
    /// By what part of the median's time it is slower.
    pub fn excess(&self) -> f64 {
        self.seconds / self.median_seconds - 1.0
    }

    /// Whether the run is slower for it.
    pub fn is_straggler(&self) -> bool {
        self.excess() >= STRAGGLING
    }
}

impl StepMetrics {
    /// What is known of the trainee `name`.
    pub fn trainee(&self, name: &str) -> Option<&TraineeMetrics> {
        self.trainees.iter().find(|trainee| trainee.name == name)
    }

    /// Part of the time that the trainer waited for images, in `[0, 1]`.
    pub fn data_wait_share(&self) -> f64 {
        if self.step_seconds > 0.0 { self.data_wait_seconds / self.step_seconds } else { 0.0 }
    }
}

/// One trainee's part of [`StepMetrics`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TraineeMetrics {
    /// The trainee's name in the configuration.
    pub name: String,
    /// The whole loss, which is trained on.
    #[serde(default = "unknown", deserialize_with = "number")]
    pub loss: f64,
    /// The loss's terms before weighting, by name; in JSON each has a key `loss_NAME`.
    #[serde(flatten, with = "loss_terms")]
    pub terms: Vec<(String, f64)>,
    /// Norm of the whole gradient before clipping.
    #[serde(default = "unknown", deserialize_with = "number")]
    pub grad_norm: f64,
}

impl TraineeMetrics {
    /// The value of the term `name`, if the loss has it.
    pub fn term(&self, name: &str) -> Option<f64> {
        self.terms.iter().find(|(own, _)| own == name).map(|(_, value)| *value)
    }
}

/// What stands for a number that a file does not tell.
fn unknown() -> f64 {
    f64::NAN
}

/// A number, or NaN where JSON has `null`.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(unknown))
}
