//! What a run directory holds: types, paths and versions of its files, for writers and readers.

mod evaluation;
mod length;
mod loss_terms;
mod manifest;
mod metrics;
mod overview;
pub mod paths;

pub use evaluation::{
    EvaluationFile, EvaluationResult, ImageCount, Measurement, Metric, Provenance, Role, Row, Unit,
};
pub use length::RunLength;
pub use manifest::{Change, FORMAT, FileEntry, Holds, Identity, Manifest, Stream, file_name, stem};
pub use metrics::{
    AnyLine, EvaluationLine, MetricsLine, MetricsLines, SlowestRank, StepMetrics, TraineeMetrics,
};
pub use overview::{Column, Overview};
