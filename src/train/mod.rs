//! The training loop that every objective shares, and what it needs: schedule, optimizer,
//! checkpoints, metrics, progress, signals.

pub mod checkpoint;
pub mod clock;
pub mod metrics;
pub mod objective;
pub mod optimizer;
pub mod prefetch;
pub mod record;
pub mod run_directory;
pub mod schedule;
pub mod signals;
pub mod state;
pub mod step;
mod step_numbers;
pub mod trainee_optimizer;
mod trainer;

pub use trainer::{Drawing, Outcome, Run, State, explain_memory, train};
