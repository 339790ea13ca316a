//! What every crate of distill stands on, without libtorch: random draws that depend on a key alone
//! ([`draws`]), files that are replaced whole ([`durable`]), signals that ask for an end, and the error
//! that names what is wrong in a configuration ([`ConfigError`]).

mod config_error;
pub mod draws;
pub mod durable;
mod ending_signals;
pub mod file_locks;

pub use config_error::ConfigError;
pub use ending_signals::{ONE_INTERRUPT, ending_signals};
