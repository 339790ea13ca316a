//! The configuration of any task: its own tables beside those of every training.

use std::path::Path;

use serde::Serialize;
use toml::Table;

use crate::config::{Check, ConfigError, KeyError, TrainConfig, explain, read_table, read_tables};
use crate::tasks::distill::DistillConfig;
use crate::tasks::pretrain::PretrainConfig;
use crate::tasks::trainee::TraineeConfig;

/// What a configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Distill,
    Pretrain,
}

impl Task {
    /// The keys that are its own; a file of this task has the first one.
    const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Distill => &["teacher", "students", "loss"],
            Self::Pretrain => &["encoder", "decoder", "reconstructions"],
        }
    }

    /// How it is run.
    const fn command(self) -> &'static str {
        match self {
            Self::Distill => "distill --config",
            Self::Pretrain => "distill pretrain --config",
        }
    }

    /// The task that a file is clearly for: it has keys of one and none of the other.
    fn of(table: &Table) -> Option<Self> {
        let has = |task: Self| task.keys().iter().any(|key| table.contains_key(*key));
        match (has(Self::Distill), has(Self::Pretrain)) {
            (true, false) => Some(Self::Distill),
            (false, true) => Some(Self::Pretrain),
            _ => None,
        }
    }
}

/// The configuration of a task: tables of its own beside those that every training has.
pub trait TaskConfig: Serialize + Sized {
    const TASK: Task;

    /// # Errors
    /// A key is unknown, missing or of the wrong type.
    fn from_tables(own: Table, train: TrainConfig) -> Result<Self, KeyError>;

    /// What every training has.
    fn train(&self) -> &TrainConfig;

    /// The same, to be changed.
    fn train_mut(&mut self) -> &mut TrainConfig;

    /// The encoders that are trained, in the order of their places in the configuration.
    fn encoders(&self) -> &[TraineeConfig];

    /// The first contradiction in the task's own tables.
    ///
    /// # Errors
    /// There is one.
    fn validate(&self) -> Check;

    /// Reads `file`, applies `overrides` of the form `data.batch_size=32`, and validates.
    ///
    /// # Errors
    /// The file cannot be read or is not TOML, is for another task, a key is unknown or of the wrong
    /// type, or two values contradict each other.
    fn load(file: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        of_table(read_table(file, overrides)?, file)
    }

    /// The whole configuration as TOML, defaults included.
    fn to_toml(&self) -> String {
        toml::to_string(self).expect("every config value has a TOML form")
    }
}

/// A configuration of whatever task.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyConfig {
    Distill(DistillConfig),
    Pretrain(PretrainConfig),
}

impl AnyConfig {
    /// As [`TaskConfig::load`], for the task that the file is for.
    ///
    /// # Errors
    /// [`TaskConfig::load`]'s.
    pub fn load(file: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let table = read_table(file, overrides)?;
        Ok(match Task::of(&table) {
            Some(Task::Pretrain) => Self::Pretrain(of_table(table, file)?),
            Some(Task::Distill) | None => Self::Distill(of_table(table, file)?),
        })
    }

    /// What every training has.
    pub fn train(&self) -> &TrainConfig {
        match self {
            Self::Distill(config) => &config.train,
            Self::Pretrain(config) => &config.train,
        }
    }

    /// The same, to be changed.
    pub fn train_mut(&mut self) -> &mut TrainConfig {
        match self {
            Self::Distill(config) => &mut config.train,
            Self::Pretrain(config) => &mut config.train,
        }
    }

    /// The encoders that are trained.
    pub fn encoders(&self) -> &[TraineeConfig] {
        match self {
            Self::Distill(config) => config.encoders(),
            Self::Pretrain(config) => config.encoders(),
        }
    }

    /// The whole configuration as TOML, defaults included.
    pub fn to_toml(&self) -> String {
        match self {
            Self::Distill(config) => config.to_toml(),
            Self::Pretrain(config) => config.to_toml(),
        }
    }
}

fn of_table<T: TaskConfig>(table: Table, file: &Path) -> Result<T, ConfigError> {
    let config = split::<T>(table).and_then(|(own, common)| {
        let config = T::from_tables(own, read_tables(common)?)?;
        config.train().validate()?;
        config.validate()?;
        Ok(config)
    });
    config.map_err(|(key, message)| ConfigError { file: file.to_path_buf(), key, message })
}

/// The task's own part of a file, and what every training has.
fn split<T: TaskConfig>(mut table: Table) -> Result<(Table, Table), KeyError> {
    if let Some(task) = Task::of(&table).filter(|task| *task != T::TASK) {
        let message = format!("this is a configuration of `{} FILE`", task.command());
        return Err((task.keys()[0].to_string(), message));
    }
    let known = || T::TASK.keys().iter().chain(&TrainConfig::KEYS);
    if let Some(key) = table.keys().find(|key| !known().any(|known| known == key)) {
        let expected: Vec<String> = known().map(|key| format!("`{key}`")).collect();
        let message = format!("unknown field `{key}`, expected one of {}", expected.join(", "));
        return Err((key.clone(), explain(&message)));
    }
    let own = T::TASK.keys().iter().filter_map(|key| table.remove_entry(*key)).collect();
    Ok((own, table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoders::EncoderSpec;

    /// The list of known keys is that of the fields, or a key would be refused or passed over.
    #[test]
    fn the_keys_of_a_task_are_those_of_its_tables() {
        let size = EncoderSpec::new(32, 2, 2);
        let mut distill = DistillConfig::minimal("run", size);
        distill.students.push(TraineeConfig::minimal("one", size));
        let check = |text: String, task: Task| {
            let table: Table = text.parse().unwrap();
            let mut found: Vec<&str> = table.keys().map(String::as_str).collect();
            let mut known: Vec<&str> = task.keys().to_vec();
            known.extend(TrainConfig::KEYS);
            found.sort_unstable();
            known.sort_unstable();
            assert_eq!(found, known);
        };
        check(distill.to_toml(), Task::Distill);
        check(PretrainConfig::minimal("run", size).to_toml(), Task::Pretrain);
    }
}
