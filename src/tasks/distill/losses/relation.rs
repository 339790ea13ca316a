//! Which patches an image's patches resemble, as probabilities.

use serde::{Deserialize, Serialize};
use tch::{Kind, Reduction, Tensor};

use super::gram::cosines;
use super::part::{LossPart, TokenPair};
use crate::train::objective::Losses;

/// How unlike the teacher's a patch's resemblances are: the term `relation`.
///
/// A patch token's cosines with all that are seen of its image, divided by the temperature, become
/// probabilities by a softmax; the term is the Kullback-Leibler divergence of the student's from the
/// teacher's, averaged over all patches. After the self-attention relations of MiniLM (Wang et al., 2020),
/// of outputs instead of values. The matrices take `16·B·K²` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relation {
    /// What the term is multiplied by in the total.
    pub weight: f64,
    /// What cosines are divided by.
    #[serde(default = "Relation::default_temperature")]
    pub temperature: f64,
}

impl Relation {
    const fn default_temperature() -> f64 {
        0.1
    }
}

impl LossPart for Relation {
    fn compare(&self, tokens: &TokenPair) -> Losses {
        let logarithms = |patch: &Tensor| {
            let logits = cosines(patch) / self.temperature;
            logits.log_softmax(-1, Kind::Float).flatten(0, 1)
        };
        let (student, teacher) =
            (logarithms(&tokens.student.patch), logarithms(&tokens.teacher.patch));
        // The sum over a row is a divergence; the mean over rows is libtorch's "batchmean".
        let rows = student.size()[0] as f64;
        let term = student.kl_div(&teacher, Reduction::Sum, true) / rows;
        Losses { total: &term * self.weight, terms: vec![("relation".into(), term)] }
    }
}
