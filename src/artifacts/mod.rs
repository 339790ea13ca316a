//! What a run directory holds: types, paths and versions of its files, for writers and readers.

mod metrics;

pub use metrics::{StepMetrics, TraineeMetrics};
