//! The TOML configuration: how it is read, and the tables of every training with the checks that need
//! no files.
//!
//! A task has tables of its own, in its folder of `tasks/`, beside those that every training has
//! ([`TrainConfig`]). [`crate::tasks::load`] reads a file, applies `--set` overrides and validates the
//! result. Every error names the file, the key, what was found and what was expected.
//! `configs/reference.toml` and `configs/reference_pretrain.toml` comment every key.

mod load;
mod train;
mod validate;

pub use distill_base::ConfigError;
pub use distill_data::config::{CurationConfig, DataConfig, ShuffleConfig};
pub use load::{KeyError, apply_overrides, explain, read_table, read_tables};
pub use train::{
    CheckpointConfig, DeviceChoice, DistributedConfig, ExportConfig, ExportFormat, LogConfig,
    OptimizerConfig, Precision, RunConfig, ScheduleConfig, TrainConfig,
};
pub use validate::{Check, LARGEST_INPUT, require};
