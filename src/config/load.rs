//! From a TOML file and `--set` overrides to tables.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::ConfigError;

/// A key, and what is wrong with its value.
pub type KeyError = (String, String);

/// The table in `file` with `overrides` of the form `data.batch_size=32` applied.
///
/// # Errors
/// The file cannot be read or is not TOML, or an override is not of that form.
pub fn read_table(file: &Path, overrides: &[String]) -> Result<Table, ConfigError> {
    let fail =
        |message: String| ConfigError { file: file.to_path_buf(), key: String::new(), message };
    let text = std::fs::read_to_string(file)
        .map_err(|error| fail(format!("cannot read the config: {error}")))?;
    let table: Table = text.parse().map_err(|error| fail(format!("not valid TOML\n{error}")))?;
    apply_overrides(table, overrides)
}

/// `table` with `overrides` of the form `data.batch_size=32` applied.
///
/// # Errors
/// An override is not of that form.
pub fn apply_overrides(mut table: Table, overrides: &[String]) -> Result<Table, ConfigError> {
    for text in overrides {
        set(&mut table, text).map_err(|message| ConfigError {
            file: PathBuf::new(),
            key: format!("--set {text}"),
            message,
        })?;
    }
    Ok(table)
}

/// `table`, deserialised as a `T`.
pub fn read_tables<T: DeserializeOwned>(table: Table) -> Result<T, KeyError> {
    serde_path_to_error::deserialize(Value::Table(table))
        .map_err(|error| (key_of(error.path()), explain(&error.inner().to_string())))
}

fn key_of(path: &serde_path_to_error::Path) -> String {
    let path = path.to_string();
    if path == "." { String::new() } else { path }
}

/// Applies one `a.b=c`; `students.0.model=...` reaches into lists. What does not parse as a TOML
/// value is taken as a string, so that paths need no quotes.
fn set(table: &mut Table, text: &str) -> Result<(), String> {
    let (path, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    let value = format!("v = {value}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| Value::String(value.to_string()));
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().filter(|key| !key.is_empty()).ok_or("the key is empty")?;
    let mut at = table;
    let mut keys = keys.into_iter().peekable();
    while let Some(key) = keys.next() {
        let next = at.entry(key).or_insert_with(|| Value::Table(Table::new()));
        at = match next {
            Value::Table(table) => table,
            Value::Array(items) => {
                let index = keys.next().unwrap_or(last);
                let count = items.len();
                index
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| items.get_mut(index))
                    .and_then(Value::as_table_mut)
                    .ok_or_else(|| {
                        format!("`{key}` is a list of {count}; `{index}` is none of its tables")
                    })?
            }
            other => return Err(format!("`{key}` is a {}, not a table", other.type_str())),
        };
    }
    at.insert(last.to_string(), value);
    Ok(())
}

/// Adds the nearest known word to serde's list of what was expected.
pub fn explain(message: &str) -> String {
    // Further lines name the table, which the key does already.
    let message = message.lines().next().unwrap_or_default();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let Some((found, expected)) = quoted.split_first() else { return message.to_string() };
    if !message.contains("unknown") {
        return message.to_string();
    }
    let nearest = expected
        .iter()
        .map(|word| (strsim::damerau_levenshtein(found, word), word))
        .filter(|(distance, _)| *distance <= found.len().div_ceil(2))
        .min();
    match nearest {
        Some((_, word)) => format!("{message}; did you mean `{word}`?"),
        None => message.to_string(),
    }
}
