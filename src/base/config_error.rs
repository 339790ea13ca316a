//! The error that names what is wrong in a configuration.

use std::path::{Path, PathBuf};

/// A configuration that cannot be used: the user has to change something. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{}{}", location(.file, .key), .message)]
pub struct ConfigError {
    /// The file it was read from.
    pub file: PathBuf,
    /// Dotted path of the key at fault; empty where the whole file is.
    pub key: String,
    /// What was found and what was expected.
    pub message: String,
}

fn location(file: &Path, key: &str) -> String {
    let mut place = String::new();
    if !file.as_os_str().is_empty() {
        place += &format!("{}: ", file.display());
    }
    if !key.is_empty() {
        place += &format!("{key}: ");
    }
    place
}
