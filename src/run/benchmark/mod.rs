//! Parts of a run with nothing but their speed in mind.

mod data;
mod step;
mod synthetic;

pub use data::{DataReport, batches};
pub use step::{StepOptions, StepReport, StudentReport, steps};
