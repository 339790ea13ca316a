//! Relations between patch tokens.

use tch::{Reduction, Tensor};

use super::part::{LossPart, TokenPair};
use crate::train::objective::Losses;

/// The smallest norm that a token is divided by.
const EPSILON: f64 = 1e-8;

/// How alike an image's patch tokens are to each other, compared with the teacher's: the term
/// `gram`, which is the mean squared difference of the two models' cosine matrices.
///
/// After the Gram anchoring of DINOv3 (Siméoni et al., 2025). The matrices take `8·B·K²` bytes.
pub(super) struct Gram {
    /// What the term is multiplied by in the total.
    pub weight: f64,
}

impl LossPart for Gram {
    fn compare(&self, tokens: &TokenPair) -> Losses {
        let (student, teacher) = (cosines(&tokens.student.patch), cosines(&tokens.teacher.patch));
        let term = student.mse_loss(&teacher, Reduction::Mean);
        Losses { total: &term * self.weight, terms: vec![("gram".into(), term)] }
    }
}

/// Cosine similarity of each token of `[B, K, D]` with each other one: `[B, K, K]`.
pub(super) fn cosines(tokens: &Tensor) -> Tensor {
    let norms = tokens.norm_scalaropt_dim(2, [-1].as_slice(), true);
    let directions = tokens / norms.clamp_min(EPSILON);
    directions.matmul(&directions.transpose(1, 2))
}
