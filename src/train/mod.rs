//! The training loop that every objective shares, and what it needs: schedule, optimizer,
//! checkpoints, metrics, progress, signals.

pub mod optimizer;
pub mod schedule;
