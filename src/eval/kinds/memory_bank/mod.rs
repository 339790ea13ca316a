//! Segmentation without training: the nearest of a bank of labelled patches vote for the classes of a
//! patch, as in "Towards In-Context Scene Understanding" (Balažević et al., 2023).

mod bank;
mod patches;
mod places;
mod settings;

use anyhow::{Result, anyhow, bail, ensure};
use indicatif::HumanCount;
use tch::{Kind, Tensor};

use bank::{Bank, Gathering};
pub use settings::{Defaults, MemoryBank};

use crate::artifacts::{Measurement, Metric};
use crate::config::{Check, KeyError, require};
use crate::data::pairs::Split;
use crate::dist::ProcessGroup;
use crate::eval::dense::ClassCounts;
use crate::eval::evaluation::{
    Evaluation, FeatureConsumer, ImageSet, SetImages, Settings, Subject,
};
use crate::eval::extract::{DenseBatch, Features};
use crate::native::guard;

/// Names and labels of the figures, all shares.
const METRICS: [[&str; 2]; 3] =
    [["miou", "mIoU"], ["pixel_accuracy", "pixels"], ["miou_present", "present"]];

/// The sets, in their order.
const REFERENCE: usize = 0;

impl Settings for MemoryBank {
    const KIND: &str = "dense";

    fn validate(&self) -> Check {
        self.check_all()
    }
}

impl Evaluation for MemoryBank {
    fn title(&self) -> String {
        "Segmentation by a memory bank: mIoU and pixel accuracy".into()
    }

    fn description(&self, counts: &[u64]) -> String {
        let [reference, held_out] = [0, 1].map(|set| HumanCount(counts[set]));
        format!(
            "mIoU and pixel accuracy on the central squares of {held_out} test images of {}, by the votes of \
             the {} nearest of at most {} patches of {reference} training images, by the cosine of frozen \
             features, weighted with temperature {}",
            self.data.name(),
            self.neighbours,
            HumanCount(self.bank as u64),
            self.temperature
        )
    }

    fn metrics(&self) -> Vec<Metric> {
        METRICS.map(|[name, label]| Metric::share(name, label)).into()
    }

    fn image_sets(&self) -> Vec<ImageSet> {
        let set = |title, split, most| ImageSet {
            title,
            field: "data",
            images: SetImages::Pairs(Box::new(self.data.clone()), split),
            most,
            is_dense: true,
        };
        vec![
            set("reference", Split::Train, self.most_reference),
            set("held-out", Split::Test, self.most_held_out),
        ]
    }

    fn check(&self, counts: &[u64]) -> Result<(), KeyError> {
        // A command line's settings are checked here alone.
        self.check_all()?;
        for &count in counts {
            require(count > 0, "data", || "found no image, expected at least one".into())?;
        }
        Ok(())
    }

    fn begin<'a>(
        &'a self,
        subjects: &'a [Subject<'a>],
        group: &'a ProcessGroup,
    ) -> Result<Box<dyn FeatureConsumer + 'a>> {
        let classes = self.classes().map_err(|(_, message)| anyhow!(message))?;
        let gathering = |_: &Subject<'_>| Gathering::new(classes, self.bank, self.seed);
        let counting = |_: &Subject<'_>| ClassCounts::new(classes as i64, group.device());
        Ok(Box::new(Segmenting {
            settings: self,
            subjects,
            group,
            gathering: subjects.iter().map(gathering).collect(),
            banks: Vec::new(),
            counts: subjects.iter().map(counting).collect(),
        }))
    }
}

/// Fills the banks, one for each encoder, while reference images come, and asks them while others do.
struct Segmenting<'a> {
    settings: &'a MemoryBank,
    subjects: &'a [Subject<'a>],
    group: &'a ProcessGroup,
    gathering: Vec<Gathering>,
    banks: Vec<Bank>,
    /// Pixels of the held-out images, of each encoder.
    counts: Vec<ClassCounts>,
}

impl FeatureConsumer for Segmenting<'_> {
    fn take(&mut self, set: usize, batch: &DenseBatch<'_>) -> Result<()> {
        let Some(targets) = &batch.targets else {
            bail!("images without masks have no segmentation");
        };
        match set {
            REFERENCE => self.gathering[batch.encoder].add(batch, targets),
            _ => self.compare(batch, targets),
        }
    }

    fn end_of_set(&mut self, set: usize) -> Result<()> {
        if set != REFERENCE {
            return Ok(());
        }
        for (gathering, subject) in
            std::mem::take(&mut self.gathering).into_iter().zip(self.subjects)
        {
            let bank = gathering.finish(self.group, subject.encoder()?.model.shape().dim)?;
            let (count, neighbours) = (bank.count(), self.settings.neighbours);
            ensure!(
                count >= neighbours as i64,
                "the reference images have {count} patches whose pixels count, fewer than the \
                 {neighbours} neighbours that are to vote"
            );
            self.banks.push(bank);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, _: &[&[Features]]) -> Result<Vec<Measurement>> {
        let mut measurements = Vec::new();
        for (subject, counts) in self.subjects.iter().zip(&self.counts) {
            counts.sum(self.group)?;
            self.group.synchronize()?;
            let figures = shares(counts)?;
            let pairs = METRICS.iter().zip(figures);
            measurements.extend(pairs.map(|([name, _], value)| subject.measurement(name, value)));
        }
        Ok(measurements)
    }
}

impl Segmenting<'_> {
    /// Predicts the class of every pixel, and counts.
    fn compare(&mut self, batch: &DenseBatch<'_>, targets: &Tensor) -> Result<()> {
        let MemoryBank { neighbours, temperature, .. } = self.settings;
        let votes = self.banks[batch.encoder].votes(&batch.patches, *neighbours, *temperature)?;
        let (images, height, width) = targets.size3()?;
        for image in 0..images {
            // One at a time: K numbers for each pixel are many.
            let prediction = guard(|| {
                let votes = votes.narrow(0, image, 1);
                let pixels = votes.upsample_bilinear2d([height, width], false, None, None);
                Ok(pixels.argmax(1, false).squeeze_dim(0))
            })?;
            let target = targets.get(image).to_kind(Kind::Int64);
            self.counts[batch.encoder].add(&prediction, &target)?;
        }
        Ok(())
    }
}

/// The figures of [`METRICS`], of the counts of all processes.
fn shares(counts: &ClassCounts) -> Result<[f64; 3]> {
    let figures = counts.figures()?;
    let [_, _, targets] = counts.counts()?;
    let present: Vec<f64> = figures
        .iou
        .iter()
        .zip(&targets)
        .filter(|(_, count)| **count > 0)
        .map(|(iou, _)| *iou)
        .collect();
    let of_present = present.iter().sum::<f64>() / present.len().max(1) as f64;
    Ok([figures.miou, figures.pixel_accuracy, of_present].map(|percent| percent / 100.0))
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// A class that occurs nowhere counts 0 in one mean, and is left out of the other; one that is only
    /// predicted too.
    #[test]
    fn figures_are_shares() {
        let mut counts = ClassCounts::new(4, Device::Cpu);
        let tensor = |values: &[i64]| Tensor::from_slice(values).view([2, 3]);
        counts.add(&tensor(&[0, 0, 1, 1, 1, 2]), &tensor(&[0, 0, 1, 1, 0, 255])).unwrap();
        let [miou, pixels, present] = shares(&counts).unwrap();
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-5, "{found}");
        near(miou, 2.0 * (2.0 / 3.0) / 4.0);
        near(pixels, 0.8);
        near(present, 2.0 / 3.0);
    }
}
