//! How a run is begun.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::train::run_directory::Resume;

/// How a run is begun.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub resume: Resume,
    /// Whether to go on with other settings than a checkpoint was trained with.
    pub accept_changes: bool,
    /// Steps, from 1, of which a trace is written.
    pub profile: Option<RangeInclusive<u64>>,
    /// The program `distill-worker`; none: it lies beside the program that runs.
    pub worker_program: Option<PathBuf>,
}
