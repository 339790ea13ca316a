//! The list of all tasks, and how a configuration file finds its own.

use std::path::Path;

use toml::Table;

use super::task::{Task, TaskConfig};
use super::{distill, pretrain};
use crate::config::{ConfigError, KeyError, TrainConfig, explain, read_table, read_tables};
use crate::eval;

/// Every task. A file that is clearly for none of them is taken for the first one's.
pub static TASKS: [&Task; 2] = [&distill::TASK, &pretrain::TASK];

/// Reads `file`, applies `overrides` of the form `data.batch_size=32`, and validates. The task is
/// the one that the file is for.
///
/// # Errors
/// The file cannot be read or is not TOML, a key is unknown or of the wrong type, or two values
/// contradict each other.
pub fn load(file: &Path, overrides: &[String]) -> Result<Box<dyn TaskConfig>, ConfigError> {
    let table = read_table(file, overrides)?;
    let task = task_of(&table).unwrap_or(TASKS[0]);
    in_file(file, || {
        let (own, common) = split(table, task)?;
        let config = (task.read)(own, read_common(common)?)?;
        validate(&*config)?;
        Ok(config)
    })
}

/// As [`load`], for one task.
///
/// # Errors
/// Those of [`load`], and the file is for another task.
pub fn load_as<C: TaskConfig>(file: &Path, overrides: &[String]) -> Result<C, ConfigError> {
    let table = read_table(file, overrides)?;
    in_file(file, || {
        let (own, common) = split(table, C::description())?;
        let config = C::from_tables(own, read_common(common)?)?;
        validate(&config)?;
        Ok(config)
    })
}

fn in_file<T>(file: &Path, read: impl FnOnce() -> Result<T, KeyError>) -> Result<T, ConfigError> {
    read().map_err(|(key, message)| ConfigError { file: file.to_path_buf(), key, message })
}

/// What every training has, each evaluation's table with its defaults.
fn read_common(table: Table) -> Result<TrainConfig, KeyError> {
    let mut train: TrainConfig = read_tables(table)?;
    train.evaluation = eval::resolve(&train.evaluation)?;
    if let Some(text) = &train.checkpoint.keep_best {
        eval::metric_named(&eval::read(&train.evaluation)?, text)
            .map_err(|message| ("checkpoint.keep_best".to_string(), message))?;
    }
    Ok(train)
}

fn validate(config: &dyn TaskConfig) -> Result<(), KeyError> {
    config.train().validate()?;
    config.validate()
}

/// The task that a file is clearly for: it has keys of one and none of the others.
fn task_of(table: &Table) -> Option<&'static Task> {
    let has = |task: &&&Task| task.keys.iter().any(|key| table.contains_key(*key));
    let mut found = TASKS.iter().filter(has);
    found.next().filter(|_| found.next().is_none()).copied()
}

/// The task's own part of a file, and what every training has.
fn split(mut table: Table, task: &Task) -> Result<(Table, Table), KeyError> {
    if let Some(other) = task_of(&table).filter(|other| other.keys != task.keys) {
        let message = format!("this is a configuration of `{} FILE`", other.command);
        return Err((other.keys[0].to_string(), message));
    }
    let known = || task.keys.iter().chain(&TrainConfig::KEYS);
    if let Some(key) = table.keys().find(|key| !known().any(|known| known == key)) {
        let expected: Vec<String> = known().map(|key| format!("`{key}`")).collect();
        let message = format!("unknown field `{key}`, expected one of {}", expected.join(", "));
        return Err((key.clone(), explain(&message)));
    }
    let own = task.keys.iter().filter_map(|key| table.remove_entry(*key)).collect();
    Ok((own, table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoders::EncoderSpec;
    use crate::tasks::distill::DistillConfig;
    use crate::tasks::pretrain::PretrainConfig;
    use crate::tasks::trainee::TraineeConfig;

    /// The list of known keys is that of the fields, or a key would be refused or passed over.
    #[test]
    fn the_keys_of_a_task_are_those_of_its_tables() {
        let size = EncoderSpec::new(32, 2, 2);
        let mut distill = DistillConfig::minimal("run", size);
        distill.students.push(TraineeConfig::minimal("one", size));
        let configs: [&dyn TaskConfig; 2] = [&distill, &PretrainConfig::minimal("run", size)];
        for (config, task) in configs.into_iter().zip(TASKS) {
            let table: Table = config.to_toml().parse().unwrap();
            let mut found: Vec<&str> = table.keys().map(String::as_str).collect();
            let mut known: Vec<&str> = task.keys.to_vec();
            known.extend(TrainConfig::KEYS);
            found.sort_unstable();
            known.sort_unstable();
            assert_eq!(found, known);
            assert!(std::ptr::eq(config.task(), task), "{}", task.title);
        }
    }
}
