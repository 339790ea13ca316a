//! The page about a comparison of encoders.

use std::path::Path;

use anyhow::{Context, Result};
use maud::html;
use toml::Table;

use super::page::{configuration, document, made};
use super::results;
use crate::artifacts::{EvaluationFile, paths};

/// The page about the comparison in `dir`, as far as it is measured; none if it holds another run, or none.
///
/// # Errors
/// What was measured cannot be read.
pub fn page(dir: &Path) -> Result<Option<String>> {
    let Ok(config) = std::fs::read_to_string(paths::config(dir)) else { return Ok(None) };
    if !config.parse().is_ok_and(|table: Table| table.contains_key("encoders")) {
        return Ok(None);
    }
    let path = paths::evaluation(dir);
    let file = EvaluationFile::read(&path);
    let file = file.with_context(|| format!("cannot read {}", path.display()))?;
    let results = file.unwrap_or_default().results;
    let canonical = std::fs::canonicalize(dir)?;
    let name = canonical.file_name().map_or("/".into(), |name| name.to_string_lossy());
    let body = html! {
        header {
            p.task { "Comparison of frozen encoders" }
            h1 { (name) }
            @if results.is_empty() { p.warning { "It is not measured to its end yet." } }
        }
        main {
            @if !results.is_empty() { (results::overview(&results)) }
            (results::evaluations(&results))
            (configuration(&config))
        }
        footer { p { code { (dir.display()) } ". " (made()) } }
    };
    Ok(Some(document(&name, &body)))
}
