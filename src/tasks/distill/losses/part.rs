//! What every part of a loss gives, and what it is given.

use tch::{Kind, Tensor};

use crate::encoders as tokens;
use crate::nn::gather_tokens;
use crate::train::objective::Losses;

/// A student's tokens and the teacher's at the same places, float32.
pub struct TokenPair {
    pub student: Tokens,
    pub teacher: Tokens,
}

/// The tokens of one model: in the teacher's width, or where relations alone are compared, in its own.
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
    /// Pairs `student`, whose tokens are in the teacher's width, with `teacher`, where the student sees the patches
    /// `keep` `[B, K]`, or all.
    ///
    /// Class tokens are paired one by one, or where their numbers differ, one mean with the other; where one model
    /// has none, none are compared. Registers are left out. Of patch grids of different sizes the student's is
    /// resized bilinearly to the teacher's, and where it sees only a part of it, the teacher's to the student's.
    pub fn new(student: &tokens::Tokens, teacher: &tokens::Tokens, keep: Option<&Tensor>) -> Self {
        let mut pair =
            Self { student: class_and_patch(student), teacher: class_and_patch(teacher) };
        let counts = [&pair.student, &pair.teacher].map(|tokens| tokens.class.size()[1]);
        if counts[0] != counts[1] {
            for tokens in [&mut pair.student, &mut pair.teacher] {
                tokens.class = match counts.contains(&0) {
                    true => tokens.class.narrow(1, 0, 0),
                    false => tokens.class.mean_dim([1i64].as_slice(), true, Kind::Float),
                };
            }
        }
        let (own, teachers) = (student.grid, teacher.grid);
        if let Some(keep) = keep {
            let patch = resized(&pair.teacher.patch, teachers, own);
            pair.teacher.patch = gather_tokens(&patch, keep);
        } else {
            pair.student.patch = resized(&pair.student.patch, own, teachers);
        }
        pair
    }
}

/// Class tokens and patch tokens in float32.
pub(in super::super) fn class_and_patch(tokens: &tokens::Tokens) -> Tokens {
    let (class, prefix) = (tokens.class_tokens, tokens.prefix_tokens);
    let sizes = [class, prefix - class, tokens.all.size()[1] - prefix];
    // Split, so that the gradients of the parts are joined by one copy.
    let mut parts = tokens.all.to_kind(Kind::Float).split_with_sizes(sizes, 1).into_iter();
    let mut part = || parts.next().expect("three sizes give three parts");
    let (class, _, patch) = (part(), part(), part());
    Tokens { class, patch }
}

/// Patch tokens `[B, N, D]` of a grid of rows and columns, on another grid.
fn resized(patch: &Tensor, from: [i64; 2], to: [i64; 2]) -> Tensor {
    if from == to {
        return patch.shallow_clone();
    }
    let (batch, _, dim) = patch.size3().expect("tokens are [B, N, D]");
    let map = patch.transpose(1, 2).reshape([batch, dim, from[0], from[1]]);
    let map = map.upsample_bilinear2d(to, false, None, None);
    map.flatten(2, 3).transpose(1, 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// Tokens of a model: each is its own number, in width 2.
    fn tokens(class: i64, registers: i64, grid: [i64; 2], first: f64) -> tokens::Tokens {
        let count = class + registers + grid[0] * grid[1];
        let all = Tensor::arange(count, (Kind::Float, Device::Cpu)) + first;
        let all = all.view([1, count, 1]).expand([1, count, 2], false);
        let prefix_tokens = class + registers;
        tokens::Tokens { all, class_tokens: class, prefix_tokens, grid, taps: Vec::new() }
    }

    fn numbers(tensor: &Tensor) -> Vec<f32> {
        Vec::<f32>::try_from(tensor.select(2, 0).reshape([-1])).unwrap()
    }

    #[test]
    fn registers_are_left_out_and_class_tokens_paired() {
        let (student, teacher) = (tokens(2, 1, [1, 2], 0.0), tokens(2, 3, [1, 2], 10.0));
        let pair = TokenPair::new(&student, &teacher, None);
        assert_eq!(numbers(&pair.student.class), [0.0, 1.0]);
        assert_eq!(numbers(&pair.teacher.class), [10.0, 11.0]);
        assert_eq!(numbers(&pair.student.patch), [3.0, 4.0]);
        assert_eq!(numbers(&pair.teacher.patch), [15.0, 16.0]);
        let pair = TokenPair::new(&tokens(4, 0, [1, 2], 0.0), &tokens(1, 0, [1, 2], 9.0), None);
        assert_eq!(numbers(&pair.student.class), [1.5]);
        assert_eq!(numbers(&pair.teacher.class), [9.0]);
        let pair = TokenPair::new(&tokens(0, 0, [1, 2], 0.0), &tokens(1, 0, [1, 2], 9.0), None);
        assert_eq!((pair.student.class.numel(), pair.teacher.class.numel()), (0, 0));
    }

    /// Halves of a pixel lie between centres: of two columns 0 and 1, four are 0, 1/4, 3/4, 1.
    #[test]
    fn grids_of_different_sizes_are_resized() {
        let (student, teacher) = (tokens(1, 0, [1, 2], -1.0), tokens(1, 0, [1, 4], -1.0));
        let pair = TokenPair::new(&student, &teacher, None);
        assert_eq!(numbers(&pair.student.patch), [0.0, 0.25, 0.75, 1.0]);
        let keep = Tensor::from_slice(&[1i64]).view([1, 1]);
        let pair = TokenPair::new(&tokens(1, 0, [1, 1], -1.0), &teacher, None);
        assert_eq!(numbers(&pair.student.patch), [0.0; 4]);
        // The student sees the second of its two patches: the teacher's third and fourth.
        let seen = tokens::Tokens { all: student.all.narrow(1, 0, 2), ..student };
        let pair = TokenPair::new(&seen, &teacher, Some(&keep));
        assert_eq!(numbers(&pair.teacher.patch), [2.5]);
    }
}
