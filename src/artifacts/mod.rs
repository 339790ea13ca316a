//! What a run directory holds: types, paths and versions of its files, for writers and readers.

mod loss_terms;
mod metrics;

pub use metrics::{METRICS_FILE, MetricsLine, MetricsLines, StepMetrics, TraineeMetrics};
