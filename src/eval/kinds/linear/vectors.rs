//! The features that a linear classifier sees.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use tch::{Device, Kind, Tensor};

/// Which part of the features a classifier sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Input {
    /// The mean of the class tokens.
    Class,
    /// That, and the mean of the patch tokens.
    ClassAndPatches,
}

impl Input {
    pub const ALL: [Self; 2] = [Self::Class, Self::ClassAndPatches];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Class => "class tokens",
            Self::ClassAndPatches => "class tokens and mean patch token",
        }
    }
}

/// Images with features and classes.
pub struct Labelled {
    /// Mean class token, then mean patch token, both after the final norm: `[N, 2D]` float32.
    pub vectors: Tensor,
    /// Place of each image's class among those that are learnt, or -1 for another: `[N]` int64.
    pub classes: Tensor,
}

impl Labelled {
    /// `vectors` `[N, 2D]` on `device`, of these labels; `known` are the classes that are learnt, ascending.
    pub fn new(vectors: &Tensor, labels: &[u32], known: &[u32], device: Device) -> Self {
        let place = |label| known.binary_search(label).map_or(-1, |place| place as i64);
        let classes: Vec<i64> = labels.iter().map(place).collect();
        Self {
            vectors: vectors.to_device(device),
            classes: Tensor::from_slice(&classes).to_device(device),
        }
    }

    /// Number of images.
    pub fn count(&self) -> i64 {
        self.classes.size()[0]
    }

    /// What a classifier of `input` sees: `[N, D]` or `[N, 2D]`.
    pub fn seen(&self, input: Input) -> Tensor {
        match input {
            Input::Class => self.vectors.narrow(1, 0, self.vectors.size()[1] / 2),
            Input::ClassAndPatches => self.vectors.shallow_clone(),
        }
    }

    /// The images of these `rows`.
    pub fn select(&self, rows: &[i64]) -> Self {
        let rows = Tensor::from_slice(rows).to_device(self.vectors.device());
        Self {
            vectors: self.vectors.index_select(0, &rows),
            classes: self.classes.index_select(0, &rows),
        }
    }
}

/// The different ones of `labels`, ascending.
pub fn classes(labels: &[u32]) -> Vec<u32> {
    let mut classes = labels.to_vec();
    classes.sort_unstable();
    classes.dedup();
    classes
}

/// Of so many images of a class one is held out for validation where no images are named for it.
const ONE_IN: usize = 10;

/// Rows of training and of validation among images of these `labels`: of each class every tenth image is
/// held out. A function of the labels alone.
///
/// # Errors
/// No class has ten images.
pub fn split(labels: &[u32]) -> Result<[Vec<i64>; 2]> {
    let known = classes(labels);
    let mut seen = vec![0usize; known.len()];
    let mut rows = [vec![], vec![]];
    for (row, label) in (0i64..).zip(labels) {
        let seen = &mut seen[known.partition_point(|class| class < label)];
        *seen += 1;
        rows[usize::from(seen.is_multiple_of(ONE_IN))].push(row);
    }
    ensure!(
        !rows[1].is_empty(),
        "no class has {ONE_IN} images, of which one is held out for validation: name validation images"
    );
    Ok(rows)
}

/// Images that are classified at a time.
const BLOCK: i64 = 1 << 12;

/// The share of `images` that each of `heads` classifiers, `[F, heads * C]` and `[heads * C]`, finds the
/// class of. One whose numbers are not finite finds none.
pub fn accuracies(
    images: &Labelled,
    input: Input,
    weight: &Tensor,
    bias: &Tensor,
    heads: i64,
) -> Result<Vec<f64>> {
    let mut right = Tensor::zeros([heads], (Kind::Int64, weight.device()));
    let seen = images.seen(input);
    for first in (0..images.count()).step_by(BLOCK as usize) {
        let count = BLOCK.min(images.count() - first);
        let block = seen.narrow(0, first, count).to_kind(weight.kind());
        let scores = (block.matmul(weight) + bias).view([count, heads, -1]);
        let found = scores.argmax(2, false);
        let truth = images.classes.narrow(0, first, count).unsqueeze(1);
        right += found.eq_tensor(&truth).sum_dim_intlist([0].as_slice(), false, Kind::Int64);
    }
    let finite = |of: &Tensor| of.view([-1, heads, bias.size()[0] / heads]).isfinite();
    let finite = finite(weight).all_dim(0, false).logical_and(&finite(bias).all_dim(0, false));
    let right = Vec::<i64>::try_from(right * finite.all_dim(1, false))?;
    Ok(right.into_iter().map(|right| right as f64 / images.count() as f64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every tenth image of a class is held out, whatever lies between, and few images are refused.
    #[test]
    fn each_class_gives_its_share() {
        let labels: Vec<u32> = (0..60).map(|row| if row % 3 == 0 { 9 } else { 4 }).collect();
        let [train, validation] = split(&labels).unwrap();
        assert_eq!(validation, [14, 27, 29, 44, 57, 59]);
        assert_eq!(train.len(), 54);
        assert!(split(&labels[..9]).unwrap_err().to_string().contains("name validation images"));
    }

    /// A head of numbers that are not finite is never right, and a class that is not known never found.
    #[test]
    fn a_failed_head_finds_nothing() {
        let vectors = Tensor::from_slice(&[1f32, 0.0, 0.0, 1.0]).view([2, 2]);
        let images = Labelled::new(&vectors, &[3, 8], &[3, 5], Device::Cpu);
        let weight = Tensor::from_slice(&[1f32, 0.0, f32::NAN, 0.0, 0.0, 1.0, 0.0, 0.0]);
        let bias = Tensor::zeros([4], (Kind::Float, Device::Cpu));
        let found =
            accuracies(&images, Input::ClassAndPatches, &weight.view([2, 4]), &bias, 2).unwrap();
        assert_eq!(found, [0.5, 0.0]);
    }
}
