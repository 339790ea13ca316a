//! The training loop that every objective shares, and what it needs: schedule, optimizer,
//! checkpoints, metrics, progress, signals.

pub mod checkpoint;
pub mod clock;
pub mod evaluating;
pub mod metrics;
pub mod objective;
pub mod optimizer;
pub mod prefetch;
mod profile;
pub mod run;
pub mod run_directory;
mod run_log;
pub mod schedule;
pub mod signals;
mod sound_end;
pub mod step;
mod step_numbers;
mod stragglers;
pub mod trainee_optimizer;
mod trainer;

pub use run::{Drawing, Run, State};
pub use run_log::RunLog;
pub use trainer::{Outcome, explain_memory, is_out_of_memory, train};
