//! The projector from a student's width to the teacher's.

use tch::Tensor;

use super::layers::{LayerNorm, Linear};
use super::parameters::Parameters;

/// Linear(d→D), LayerNorm(D), GELU, Linear(D→D), under the names of the published recipe.
pub struct Projector {
    widen: Linear,
    norm: LayerNorm,
    mix: Linear,
}

impl Projector {
    /// What the names of its parameters begin with.
    const SCOPE: &str = "last_proj";

    /// Whether a parameter of this name is a projector's.
    pub fn owns(name: &str) -> bool {
        name.strip_prefix(Self::SCOPE).is_some_and(|rest| rest.starts_with('.'))
    }

    /// A projector from width `from` to width `to`, its parameters under [`Self::SCOPE`].
    pub fn new(parameters: &mut Parameters, from: i64, to: i64) -> Self {
        parameters.scoped(Self::SCOPE, |parameters| Self {
            widen: Linear::new(parameters, "0", from, to),
            norm: LayerNorm::new(parameters, "1", to, 1e-5),
            mix: Linear::new(parameters, "3", to, to),
        })
    }

    /// `[B, T, d]` to `[B, T, D]`.
    pub fn forward(&self, tokens: &Tensor) -> Tensor {
        let hidden = self.norm.forward(&self.widen.forward(tokens)).gelu("none");
        self.mix.forward(&hidden)
    }
}
