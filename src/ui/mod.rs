//! The terminal: bars, progress of a training, phases of preparation.

mod bar;
pub mod progress;
pub mod screen;

pub use bar::with_bar;
