//! A run from a configuration to what it leaves behind: set-up, models, training, export,
//! evaluation.

pub mod device;
pub mod distill;
pub mod evaluation;
pub mod fp8_report;
pub mod models;
pub mod pretrain;
pub mod reconstructions;
pub mod score;
pub mod setup;
pub mod summary;
pub mod training;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::data::worker;

/// Exit code of a run that came to its end.
pub const DONE: u8 = 0;
/// "Try again later" of BSD's sysexits: the state is saved, the same command continues.
pub const RESUME_ME: u8 = 75;

/// The program that decodes in processes of its own: beside this one.
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
