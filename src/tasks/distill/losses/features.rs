//! Distances between tokens, class tokens and patch tokens apart.

use serde::{Deserialize, Serialize};
use tch::{Kind, Reduction, Tensor};

use super::part::{LossPart, TokenPair};
use crate::train::objective::Losses;

/// A distance between student and teacher tokens, averaged over everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    None,
    /// One minus the cosine similarity over the width.
    #[default]
    Cosine,
    L1,
    Mse,
    /// Half the squared difference where that is below 1 in absolute value, and beyond it the
    /// absolute difference less a half (Girshick, "Fast R-CNN", 2015).
    SmoothL1,
}

impl Distance {
    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Cosine => "cosine",
            Self::L1 => "l1",
            Self::Mse => "mse",
            Self::SmoothL1 => "smooth_l1",
        }
    }
}

/// How the class token and patch token losses become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fuse {
    /// `(class + patch) / 2`.
    #[default]
    Avg,
    /// Weighted by each kind's share of the tokens.
    Sum,
}

/// The distances over class tokens and patch tokens, fused: the terms `class` and `patch`. A distance
/// of `none` leaves the other as the whole.
pub(super) struct Features {
    pub class: Distance,
    pub patch: Distance,
    pub fuse: Fuse,
}

impl LossPart for Features {
    /// # Panics
    /// If both distances are `none`.
    fn compare(&self, tokens: &TokenPair) -> Losses {
        let (student, teacher) = (&tokens.student, &tokens.teacher);
        let class = match student.class.size()[1] {
            // Models that have no class tokens in common.
            0 => None,
            _ => distance(self.class, &student.class, &teacher.class),
        };
        let patch = distance(self.patch, &student.patch, &teacher.patch);
        let total = match (&class, &patch, self.fuse) {
            (None, None, _) => panic!("the loss compares no features"),
            (None, Some(only), _) | (Some(only), None, _) => only.shallow_clone(),
            (Some(class), Some(patch), Fuse::Avg) => (class + patch) / 2.0,
            (Some(class), Some(patch), Fuse::Sum) => {
                let [class_tokens, patches] =
                    [&student.class, &student.patch].map(|tokens| tokens.size()[1] as f64);
                let share = class_tokens / (class_tokens + patches);
                class * share + patch * (1.0 - share)
            }
        };
        let terms = [("class", class), ("patch", patch)];
        let terms = terms.into_iter().filter_map(|(name, value)| Some((name.into(), value?)));
        Losses { total, terms: terms.collect() }
    }
}

/// A scalar distance between `[B, T, D]` tensors, averaged over everything.
fn distance(kind: Distance, student: &Tensor, teacher: &Tensor) -> Option<Tensor> {
    Some(match kind {
        Distance::None => return None,
        Distance::Cosine => {
            1.0 - Tensor::cosine_similarity(student, teacher, -1, 1e-8).mean(Kind::Float)
        }
        Distance::L1 => student.l1_loss(teacher, Reduction::Mean),
        Distance::Mse => student.mse_loss(teacher, Reduction::Mean),
        Distance::SmoothL1 => student.smooth_l1_loss(teacher, Reduction::Mean, 1.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoders as tokens;
    use tch::Device;

    fn losses(class: Distance, patch: Distance, fuse: Fuse) -> [f64; 3] {
        // One class token off by 1 in each of 2 numbers, three patch tokens off by 3.
        let teacher = Tensor::ones([1, 4, 2], (Kind::Float, Device::Cpu));
        let student = &teacher + Tensor::from_slice(&[1f32, 3., 3., 3.]).view([1, 4, 1]);
        let tokens = |all: &Tensor| tokens::Tokens {
            all: all.shallow_clone(),
            class_tokens: 1,
            prefix_tokens: 1,
            grid: [1, 3],
            taps: Vec::new(),
        };
        let pair = TokenPair::new(&tokens(&student), &tokens(&teacher), None);
        let losses = Features { class, patch, fuse }.compare(&pair);
        let values = [Some(&losses.total), losses.term("class"), losses.term("patch")];
        values.map(|value| value.map_or(0.0, |value| value.double_value(&[])))
    }

    #[test]
    fn fuses_by_average_or_by_share_of_tokens() {
        assert_eq!(losses(Distance::L1, Distance::L1, Fuse::Avg), [2.0, 1.0, 3.0]);
        assert_eq!(losses(Distance::L1, Distance::Mse, Fuse::Sum), [7.0, 1.0, 9.0]);
        let parallel = losses(Distance::Cosine, Distance::L1, Fuse::Avg);
        assert!(parallel[1].abs() < 1e-6, "tokens that point the same way: {parallel:?}");
    }

    #[test]
    fn no_class_loss_leaves_the_patch_loss_whole() {
        for fuse in [Fuse::Avg, Fuse::Sum] {
            assert_eq!(losses(Distance::None, Distance::Mse, fuse), [9.0, 0.0, 9.0]);
        }
    }
}
