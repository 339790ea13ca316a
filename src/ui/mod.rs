//! The terminal: bars, progress of a training, phases of preparation.

pub mod progress;
pub mod screen;
