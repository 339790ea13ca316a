//! What every crate of distill stands on, without libtorch: random draws that depend on a key alone
//! ([`draws`]), files that are replaced whole ([`durable`]), and the error that names what is wrong
//! in a configuration ([`ConfigError`]).

mod config_error;
pub mod draws;
pub mod durable;

pub use config_error::ConfigError;
