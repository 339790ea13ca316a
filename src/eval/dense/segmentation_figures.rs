//! Figures of predicted classes.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::task::IGNORED;
use crate::dist::ProcessGroup;
use crate::native::guard;

/// Pixels of each class over any number of images: in target and prediction both, in the prediction,
/// in the target.
pub struct ClassCounts {
    classes: i64,
    /// `[3, K]` int64 on the device.
    counts: Tensor,
}

/// What the counts say.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentationFigures {
    /// Intersection over union of each class, in %; 0 for one that occurs nowhere.
    pub iou: Vec<f64>,
    /// Its mean over all classes, in %.
    pub miou: f64,
    /// Pixels of the right class among all that count, in %.
    pub pixel_accuracy: f64,
}

impl ClassCounts {
    /// No image yet.
    pub fn new(classes: i64, device: Device) -> Self {
        Self { classes, counts: Tensor::zeros([3, classes], (Kind::Int64, device)) }
    }

    /// Counts an image: classes `[H, W]` int64 both, [`IGNORED`] in the target where nothing counts.
    ///
    /// # Errors
    /// libtorch fails, as it does for a class that there is not.
    pub fn add(&mut self, prediction: &Tensor, target: &Tensor) -> Result<()> {
        guard(|| {
            let counted = target.ne(IGNORED);
            let of_counted = |tensor: &Tensor| tensor.masked_select(&counted).to_kind(Kind::Int64);
            let (prediction, target) = (of_counted(prediction), of_counted(target));
            let right = prediction.masked_select(&prediction.eq_tensor(&target));
            let count = |classes: &Tensor| classes.bincount::<&Tensor>(None, self.classes);
            let counts = Tensor::stack(&[count(&right), count(&prediction), count(&target)], 0);
            let _ = self.counts.f_add_(&counts)?;
            Ok(())
        })
    }

    /// The counts of all ranks together.
    ///
    /// # Errors
    /// Another rank failed.
    pub fn sum(&self, group: &ProcessGroup) -> Result<()> {
        group.sum(&self.counts)
    }

    /// Intersection, prediction and target of each class.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn counts(&self) -> Result<[Vec<i64>; 3]> {
        guard(|| {
            let row = |row| Vec::<i64>::try_from(self.counts.get(row));
            Ok([row(0)?, row(1)?, row(2)?])
        })
    }

    /// The figures of what is counted so far.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn figures(&self) -> Result<SegmentationFigures> {
        let [both, predicted, target] = self.counts()?;
        let union = |class: usize| predicted[class] + target[class] - both[class];
        let iou: Vec<f64> = (0..both.len())
            .map(|class| 100.0 * both[class] as f64 / (union(class) as f64 + 1e-6))
            .collect();
        let miou = iou.iter().sum::<f64>() / iou.len() as f64;
        let [right, all] = [&both, &target].map(|counts| counts.iter().sum::<i64>() as f64);
        Ok(SegmentationFigures { iou, miou, pixel_accuracy: 100.0 * right / all.max(1.0) })
    }
}
