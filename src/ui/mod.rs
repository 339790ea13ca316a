//! What people see of a run: bars, progress of a training, phases of preparation, numbers in words.

mod bar;
pub mod numbers;
pub mod progress;
pub mod screen;

pub use bar::with_bar;
