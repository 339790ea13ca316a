//! The configuration tables that every task has.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tch::Kind;
use toml::Table;

use super::DataConfig;

/// The tables that every task's configuration has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Seed of every random draw: initial weights, order, crops, masks, drop path.
    #[serde(default)]
    pub seed: u64,
    pub run: RunConfig,
    pub data: DataConfig,
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    pub schedule: ScheduleConfig,
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    #[serde(default)]
    pub distributed: DistributedConfig,
    #[serde(default)]
    pub log: LogConfig,
    #[serde(default)]
    pub export: ExportConfig,
    /// Tables of evaluations, which `eval` reads; with every default once a task's configuration is
    /// loaded.
    #[serde(default)]
    pub evaluation: Table,
}

impl TrainConfig {
    /// The keys of its fields.
    pub const KEYS: [&str; 10] = [
        "seed",
        "run",
        "data",
        "optimizer",
        "schedule",
        "checkpoint",
        "distributed",
        "log",
        "export",
        "evaluation",
    ];

    /// One epoch over no shards with every default, into `dir`; tests and benchmarks fill in the rest.
    pub fn minimal(dir: impl Into<PathBuf>) -> Self {
        Self {
            seed: 0,
            run: RunConfig {
                dir: dir.into(),
                device: DeviceChoice::Auto,
                precision: Precision::Fp32,
                threads: 0,
            },
            data: DataConfig::minimal(Vec::new()),
            optimizer: OptimizerConfig::default(),
            schedule: ScheduleConfig { epochs: 1.0, warmup_epochs: 0.0, steps_per_epoch: None },
            checkpoint: CheckpointConfig::default(),
            distributed: DistributedConfig::default(),
            log: LogConfig::default(),
            export: ExportConfig::default(),
            evaluation: Table::new(),
        }
    }
}

/// The directory of a run, and the device that it computes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Directory of the run: `config.toml`, `metrics.jsonl`, `checkpoints/`, `exports/`, ...
    pub dir: PathBuf,
    #[serde(default)]
    pub device: DeviceChoice,
    #[serde(default)]
    pub precision: Precision,
    /// CPU threads of the model's computation; 0 leaves it to libtorch (one per core).
    #[serde(default)]
    pub threads: usize,
}

/// Where the model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// The first GPU where there is one, else the CPU.
    #[default]
    Auto,
    Cpu,
    Cuda,
}

impl DeviceChoice {
    /// As configurations and arguments have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// The number format of matrix products. Master weights, losses and AdamW are always float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    Fp32,
    Bf16,
}

impl Precision {
    /// Its word in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
        }
    }

    /// The kind of tensor that is meant.
    pub fn kind(self) -> Kind {
        match self {
            Self::Fp32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

/// AdamW, one for each trained encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Peak learning rate. Give this or `base_learning_rate`, not both; 1e-3 if neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Peak learning rate for a global batch of 256; scaled linearly with the global batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_learning_rate: Option<f64>,
    /// Learning rate at the end of the schedule.
    #[serde(default)]
    pub min_learning_rate: f64,
    #[serde(default = "betas")]
    pub betas: [f64; 2],
    #[serde(default = "adam_eps")]
    pub eps: f64,
    /// Weight decay of tensors with two or more dimensions; the others have none.
    #[serde(default = "weight_decay")]
    pub weight_decay: f64,
    /// Clip each encoder's gradient to this norm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_grad_norm: Option<f64>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            learning_rate: None,
            base_learning_rate: None,
            min_learning_rate: 0.0,
            betas: betas(),
            eps: adam_eps(),
            weight_decay: weight_decay(),
            clip_grad_norm: None,
        }
    }
}

/// Length of training and shape of the learning rate, in epochs of `steps_per_epoch` steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Epochs in all; a half cosine ends there.
    pub epochs: f64,
    /// Epochs of linear warm-up from zero.
    #[serde(default)]
    pub warmup_epochs: f64,
    /// Optimizer steps in an epoch. Left out: one pass over the data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps_per_epoch: Option<u64>,
}

/// When the run's state is saved and how much of it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between checkpoints; one is always written at the end.
    #[serde(default = "checkpoint_every")]
    pub every: u64,
    /// How many of the newest checkpoints stay.
    #[serde(default = "checkpoint_keep")]
    pub keep: usize,
    /// The figure, as `EVALUATION.METRIC`, of which the checkpoint with the highest stays beside the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_best: Option<String>,
    /// The most ranks that write the state that all ranks hold alike.
    #[serde(default = "checkpoint_writers")]
    pub writers: usize,
    /// The most host memory, in 10⁹ bytes, that each process locks for its GPU to copy the state to.
    #[serde(default = "checkpoint_pinned_gigabytes")]
    pub pinned_gigabytes: f64,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            every: checkpoint_every(),
            keep: checkpoint_keep(),
            keep_best: None,
            writers: checkpoint_writers(),
            pinned_gigabytes: checkpoint_pinned_gigabytes(),
        }
    }
}

/// How the processes of a run work together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistributedConfig {
    /// Gradients are sent in buckets of this many 2²⁰ bytes, the first one at most 1.
    pub bucket_megabytes: f64,
    /// Number format in which gradients travel.
    pub gradient_precision: Precision,
    /// A process that gives no sign of life for this long is taken for dead, and the run ends. Who
    /// exports or evaluates at the end has three times as long for a batch, a tensor or a file part.
    pub timeout_seconds: f64,
    /// Steps between comparisons of all processes' weights; 0 never compares.
    pub check_every: u64,
    /// Divide optimizer state among the processes (ZeRO stage 1).
    pub shard_optimizer: bool,
}

impl Default for DistributedConfig {
    fn default() -> Self {
        Self {
            bucket_megabytes: 25.0,
            gradient_precision: Precision::Fp32,
            timeout_seconds: 600.0,
            check_every: 100,
            shard_optimizer: false,
        }
    }
}

/// What is recorded while training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Steps between lines of `metrics.jsonl` and TensorBoard points.
    #[serde(default = "log_every")]
    pub every: u64,
    #[serde(default = "yes")]
    pub tensorboard: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { every: log_every(), tensorboard: true }
    }
}

/// What is exported when training ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportConfig {
    /// Layouts written to `exports/NAME/` at the end; an empty list writes none.
    #[serde(default = "export_formats")]
    pub formats: Vec<ExportFormat>,
}

impl Default for ExportConfig {
    fn default() -> Self {
        Self { formats: export_formats() }
    }
}

/// A layout of exported weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ExportFormat {
    /// `config.json`, `model.safetensors`, `preprocessor_config.json` for `transformers`.
    Hf,
    /// One safetensors file under the names of the family's original checkpoints. Its key is as old
    /// as the time when Pixio was the only family.
    #[serde(rename = "pixio", alias = "original")]
    #[value(name = "pixio", alias = "original")]
    Original,
}

fn yes() -> bool {
    true
}
fn betas() -> [f64; 2] {
    [0.9, 0.95]
}
fn adam_eps() -> f64 {
    1e-8
}
fn weight_decay() -> f64 {
    0.05
}
fn checkpoint_every() -> u64 {
    1000
}
fn checkpoint_keep() -> usize {
    3
}
fn checkpoint_writers() -> usize {
    64
}
fn checkpoint_pinned_gigabytes() -> f64 {
    32.0
}
fn log_every() -> u64 {
    10
}
fn export_formats() -> Vec<ExportFormat> {
    vec![ExportFormat::Hf]
}
