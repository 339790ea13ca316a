//! A run from a configuration to what it leaves behind: set-up, models, training, export,
//! evaluation.

pub mod benchmark;
pub mod device;
pub mod evaluation;
mod export;
mod opening;
mod outcome;
mod plan;
pub mod score;
pub mod setup;
mod training;
mod worker_program;

pub use export::{Source, encoder_of_run};
pub use outcome::{Finished, Outcome, Stop, Summary};
pub use plan::{Length, Planned, plan};
pub use training::{Options, train};
pub use worker_program::worker_program;
