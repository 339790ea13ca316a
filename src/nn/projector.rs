//! Projectors from a student's width to the teacher's.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::layers::{LayerNorm, Linear};
use super::parameters::Parameters;

/// What a projector is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProjectorKind {
    /// Linear(d→D), LayerNorm(D), GELU, Linear(D→D).
    #[default]
    Mlp,
    /// Linear(d→D).
    Linear,
    /// Tokens stay as they are.
    None,
}

impl ProjectorKind {
    /// Whether it is that of the recipe.
    #[must_use]
    pub fn is_mlp(&self) -> bool {
        *self == Self::Mlp
    }

    /// Its name in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::Linear => "linear",
            Self::None => "none",
        }
    }
}

/// A projector; the names of an MLP's parameters are those of the published recipe.
pub enum Projector {
    Mlp { widen: Linear, norm: LayerNorm, mix: Linear },
    Linear(Linear),
    None,
}

impl Projector {
    /// What the names of the parameters begin with that belong to comparisons with a teacher: of projectors, and
    /// what else stands beside a student's encoder. Encoders that are read from a student's file pass over them.
    pub const SCOPE: &str = "last_proj";

    /// Whether a parameter of this name stands beside the encoder.
    pub fn owns(name: &str) -> bool {
        name.strip_prefix(Self::SCOPE).is_some_and(|rest| rest.starts_with('.'))
    }

    /// A projector from width `from` to width `to`, its parameters under `scope`.
    pub fn new(
        parameters: &mut Parameters,
        scope: &str,
        kind: ProjectorKind,
        (from, to): (i64, i64),
    ) -> Self {
        match kind {
            ProjectorKind::Mlp => parameters.scoped(scope, |parameters| Self::Mlp {
                widen: Linear::new(parameters, "0", from, to),
                norm: LayerNorm::new(parameters, "1", to, 1e-5),
                mix: Linear::new(parameters, "3", to, to),
            }),
            ProjectorKind::Linear => Self::Linear(Linear::new(parameters, scope, from, to)),
            ProjectorKind::None => Self::None,
        }
    }

    /// `[B, T, d]` to `[B, T, D]`.
    pub fn forward(&self, tokens: &Tensor) -> Tensor {
        match self {
            Self::Mlp { widen, norm, mix } => {
                let hidden = norm.forward(&widen.forward(tokens)).gelu("none");
                mix.forward(&hidden)
            }
            Self::Linear(linear) => linear.forward(tokens),
            Self::None => tokens.shallow_clone(),
        }
    }
}
