//! `distill` trains several student vision encoders at once from one frozen Pixio teacher.
//!
//! The crate is the `distill` program and the library behind it. Imports between its modules
//! point one way, from the command line down to the configuration; `docs/ARCHITECTURE.md` has
//! the map.

pub mod artifacts;
pub mod cli;
pub mod config;
pub mod dist;
pub mod doctor;
pub mod encoders;
pub mod eval;
pub mod explore;
pub mod hub;
pub mod native;
pub mod nn;
pub mod onnx;
pub mod report;
pub mod run;
pub mod status;
pub mod tasks;
pub mod train;
pub mod ui;
pub mod viz;
pub mod watch;
pub mod weights;

pub use distill_base::{ONE_INTERRUPT, draws, durable, ending_signals, file_locks};
pub use distill_data as data;
