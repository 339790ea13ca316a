//! A run, or a comparison of encoders, as one HTML page.

mod beside;
mod charts;
mod comparison;
mod curve;
mod page;
mod plan;
mod results;
mod run;
mod training;

use std::path::{Path, PathBuf};

use anyhow::Result;

use run::Run;

/// A page about what a directory holds.
#[derive(Debug)]
pub struct Report {
    /// One HTML document that needs nothing but itself.
    pub page: String,
    /// What could not be read, a sentence each.
    pub notes: Vec<String>,
}

/// The page about the run, or the comparison of encoders, in `dir`.
///
/// # Errors
/// It is no directory of either, or it cannot be read.
pub fn of(dir: &Path) -> Result<Report> {
    if let Some(page) = comparison::page(dir)? {
        return Ok(Report { page, notes: Vec::new() });
    }
    let run = Run::read(dir)?;
    Ok(Report { page: page::page(&run)?, notes: run.notes().to_vec() })
}

/// The page about several runs side by side.
///
/// # Errors
/// One is no run directory, or cannot be read.
pub fn of_several(dirs: &[PathBuf]) -> Result<Report> {
    let runs = dirs.iter().map(|dir| Run::read(dir)).collect::<Result<Vec<Run>>>()?;
    let notes = runs.iter().flat_map(Run::notes).cloned().collect();
    Ok(Report { page: beside::page(&runs)?, notes })
}
