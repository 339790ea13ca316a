//! Evaluation passes: which images they take.

/// What an evaluation pass takes, and what it finds out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvaluationPass {
    /// Of more samples, so many at even distances: shards that are sorted by class stay balanced.
    pub most_samples: u64,
    /// Whether the entropy of each image's histogram is computed.
    pub measure: bool,
}

impl EvaluationPass {
    /// All samples, nothing measured.
    pub const WHOLE: Self = Self { most_samples: u64::MAX, measure: false };
}
