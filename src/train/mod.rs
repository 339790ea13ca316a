//! (skeleton)

pub mod metrics;
pub mod progress;
pub mod screen;
pub mod signals;
