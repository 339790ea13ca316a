//! What every part of a loss gives, and what it is given.

use tch::{Kind, Tensor};

use crate::nn::gather_tokens;
use crate::train::objective::Losses;

/// A student's tokens and the teacher's at the same places, float32.
pub struct TokenPair {
    pub student: Tokens,
    pub teacher: Tokens,
}

/// The tokens of one model, in the teacher's width.
pub struct Tokens {
    /// Class tokens `[B, C, D]`.
    pub class: Tensor,
    /// The patch tokens that the student sees `[B, K, D]`.
    pub patch: Tensor,
}

/// A part of the loss, on all of a student's tokens.
pub trait LossPart {
    /// The part's share of the total, a scalar, and its named terms.
    fn compare(&self, tokens: &TokenPair) -> Losses;
}

impl TokenPair {
    /// Pairs `student` `[B, C+K, D]` with `teacher` `[B, C+N, D]`, where C is `class_tokens` and the
    /// student sees the patches `keep` `[B, K]`, or all.
    pub fn new(
        student: &Tensor,
        teacher: &Tensor,
        class_tokens: i64,
        keep: Option<&Tensor>,
    ) -> Self {
        let patches = teacher.size()[1] - class_tokens;
        let teacher = match keep {
            Some(keep) => {
                let seen = gather_tokens(&teacher.narrow(1, class_tokens, patches), keep);
                &Tensor::cat(&[teacher.narrow(1, 0, class_tokens), seen], 1)
            }
            None => teacher,
        };
        let sizes = [class_tokens, student.size()[1] - class_tokens];
        let split = |tensor: &Tensor| {
            let mut parts = tensor.to_kind(Kind::Float).split_with_sizes(sizes, 1).into_iter();
            let mut part = || parts.next().expect("two sizes give two parts");
            Tokens { class: part(), patch: part() }
        };
        Self { student: split(student), teacher: split(teacher) }
    }
}
