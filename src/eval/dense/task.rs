//! [`DenseTask`]: what a head's output is, and how it is compared with a target.

use tch::{Kind, Reduction, Tensor};

/// The class of pixels that do not count.
pub const IGNORED: i64 = 255;

/// Weight of the squared mean in the scale-invariant loss (Eigen et al., 2014).
const SCALE_INVARIANCE: f64 = 0.5;

/// What is predicted at every pixel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DenseTask {
    /// Depth in metres; targets outside of these bounds do not count.
    Depth { least: f64, most: f64 },
    /// One of so many classes.
    Segmentation { classes: i64 },
}

/// The loss of some images, and whether any pixel of them counts.
pub struct DenseLoss {
    /// A scalar; 0 with zero gradients where no pixel counts.
    pub value: Tensor,
    /// A scalar, 1 or 0.
    pub counts: Tensor,
}

impl DenseTask {
    /// Channels of a head's output.
    pub fn outputs(self) -> i64 {
        match self {
            Self::Depth { .. } => 1,
            Self::Segmentation { classes } => classes,
        }
    }

    /// What a head's output at every pixel `[B, K, H, W]` says: metres `[B, H, W]`, or logits as they
    /// came.
    pub fn prediction(self, output: &Tensor) -> Tensor {
        match self {
            Self::Depth { most, .. } => output.sigmoid().squeeze_dim(1) * most,
            Self::Segmentation { .. } => output.shallow_clone(),
        }
    }

    /// The loss over all pixels of the images together: for metres `[B, H, W]` and a float32 target
    /// the scale-invariant logarithmic one, √(mean(d²) − mean(d)²/2) with d = ln target − ln
    /// prediction; for logits `[B, K, H, W]` and an int64 target `[B, H, W]` cross-entropy.
    pub fn loss(self, prediction: &Tensor, target: &Tensor) -> DenseLoss {
        match self {
            Self::Depth { least, .. } => {
                let counts = self.counted(target).to_kind(Kind::Float);
                let number = counts.sum(Kind::Float);
                let divisor = number.clamp_min(1.0);
                // Where nothing counts any number with a logarithm will do.
                let target = target.where_self(&counts.to_kind(Kind::Bool), &target.ones_like());
                let d = (target.log() - prediction.clamp_min(least).log()) * &counts;
                let mean = d.sum(Kind::Float) / &divisor;
                let inside =
                    d.square().sum(Kind::Float) / &divisor - mean.square() * SCALE_INVARIANCE;
                // √ has no gradient at 0, where the prediction is perfect or nothing counts.
                let is_positive = inside.gt(0.0);
                let root = inside.where_self(&is_positive, &inside.ones_like()).sqrt();
                let value = root.where_self(&is_positive, &root.zeros_like());
                DenseLoss { value, counts: number.gt(0.0).to_kind(Kind::Float) }
            }
            Self::Segmentation { .. } => {
                let number = self.counted(target).to_kind(Kind::Float).sum(Kind::Float);
                let sum = prediction.cross_entropy_loss::<&Tensor>(
                    target,
                    None,
                    Reduction::Sum,
                    IGNORED,
                    0.0,
                );
                let value = sum / number.clamp_min(1.0);
                DenseLoss { value, counts: number.gt(0.0).to_kind(Kind::Float) }
            }
        }
    }

    /// Which pixels of a target count: `target`'s shape, booleans. Both bounds of a depth are inside.
    pub fn counted(self, target: &Tensor) -> Tensor {
        match self {
            Self::Depth { least, most } => {
                target.gt(0.0).logical_and(&target.ge(least)).logical_and(&target.le(most))
            }
            Self::Segmentation { .. } => target.ne(IGNORED),
        }
    }

    /// What is added up over windows: the probability of each class `[B, K, H, W]`, or the share of the
    /// greatest depth `[B, 1, H, W]`.
    pub fn score(self, output: &Tensor) -> Tensor {
        match self {
            Self::Depth { .. } => output.sigmoid(),
            Self::Segmentation { .. } => output.softmax(1, Kind::Float),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(task: DenseTask, prediction: Tensor, target: &Tensor) -> (f64, f64, Vec<f32>) {
        let prediction = prediction.set_requires_grad(true);
        let DenseLoss { value, counts } = task.loss(&prediction, target);
        value.backward();
        let gradient = Vec::try_from(prediction.grad().flatten(0, -1)).unwrap();
        (value.double_value(&[]), counts.double_value(&[]), gradient)
    }

    /// Neither a perfect prediction nor a target without a pixel that counts may spoil the weights.
    #[test]
    fn what_has_no_gradient_gives_zeros() {
        let depth = DenseTask::Depth { least: 0.001, most: 10.0 };
        let metres = Tensor::from_slice(&[1f32, 2., 3., 4.]).view([1, 2, 2]);
        assert_eq!(gradient(depth, metres.copy(), &metres), (0.0, 1.0, vec![0.0; 4]));
        let nothing = metres.zeros_like();
        assert_eq!(gradient(depth, metres.copy(), &nothing), (0.0, 0.0, vec![0.0; 4]));
        let classes = DenseTask::Segmentation { classes: 2 };
        let logits = Tensor::from_slice(&[1f32, 2.]).view([1, 2, 1, 1]);
        let ignored = Tensor::from_slice(&[IGNORED]).view([1, 1, 1]);
        assert_eq!(gradient(classes, logits, &ignored), (0.0, 0.0, vec![0.0; 2]));
    }

    #[test]
    fn both_bounds_count_and_no_reading_does_not() {
        let task = DenseTask::Depth { least: 0.5, most: 10.0 };
        let target = Tensor::from_slice(&[0f32, 0.4999, 0.5, 10.0, 10.001, -1.0]);
        let counted = Vec::<bool>::try_from(task.counted(&target)).unwrap();
        assert_eq!(counted, [false, false, true, true, false, false]);
    }
}
