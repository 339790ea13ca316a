//! The program that decodes images in processes of its own.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::data::worker;

/// The worker program beside this one, where a build and an installation put it.
///
/// # Errors
/// It is not there.
pub fn worker_program() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot tell where this program lies")?;
    let worker = program.with_file_name(worker::PROGRAM);
    ensure!(
        worker.is_file(),
        "{} is missing: it belongs beside `distill`; `cargo build --release` makes both",
        worker.display()
    );
    Ok(worker)
}
