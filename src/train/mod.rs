//! The training loop that every objective shares, and what it needs: schedule, optimizer,
//! checkpoints, metrics, progress, signals.

pub mod checkpoint;
pub mod clock;
pub mod feed;
pub mod learner;
pub mod metrics;
pub mod optimizer;
pub mod progress;
pub mod record;
mod report;
pub mod run_directory;
pub mod schedule;
pub mod screen;
pub mod signals;
pub mod state;
pub mod step;
mod trainer;

pub use trainer::{Drawing, Outcome, Run, State, explain_memory, train};
