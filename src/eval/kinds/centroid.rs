//! Nearest-centroid classification with a linear kernel: how often the class whose mean feature is
//! most like an image's own feature is the image's class.

use anyhow::{Result, ensure};
use clap::Args;
use indicatif::HumanCount;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::artifacts::Metric;
use crate::config::{Check, KeyError, require};
use crate::dist::ProcessGroup;
use crate::eval::evaluation::{
    Evaluation, FeatureConsumer, FromPooled, ImageSet, Settings, Subject,
};
use crate::eval::extract::Features;
use crate::status;

/// The one metric.
const TOP1: &str = "top1";

/// Images whose features are summed, or compared with centroids, at a time.
const BLOCK: i64 = 1 << 11;

/// Classification of labelled images by the nearest class centroid of their pooled features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct Centroid {
    /// Labelled shards of the images that give each class its centroid
    #[arg(long, required = true, num_args = 1.., value_name = "PATTERN")]
    pub reference: Vec<String>,
    /// Labelled shards of the images that are classified
    #[arg(long, required = true, num_args = 1.., value_name = "PATTERN")]
    pub held_out: Vec<String>,
    /// Take so many reference images at most, spread evenly over all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_reference: Option<u64>,
    /// Take so many held-out images at most, spread evenly over all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_held_out: Option<u64>,
}

impl Settings for Centroid {
    const KIND: &str = "centroid";

    fn validate(&self) -> Check {
        self.image_sets().iter().try_for_each(ImageSet::validate)
    }
}

impl Evaluation for Centroid {
    fn title(&self) -> String {
        "Nearest-centroid top-1 accuracy".into()
    }

    fn description(&self, counts: &[u64]) -> String {
        let [reference, held_out] = [0, 1].map(|set| HumanCount(counts[set]));
        format!(
            "Top-1 accuracy on {held_out} held-out images by the nearest class centroid of \
             {reference} reference images, by the cosine of frozen features"
        )
    }

    fn metrics(&self) -> Vec<Metric> {
        vec![Metric::share(TOP1, "top-1")]
    }

    fn image_sets(&self) -> Vec<ImageSet> {
        let Self { reference, held_out, most_reference, most_held_out } = self;
        ImageSet::reference_and_held_out([reference, held_out], [*most_reference, *most_held_out])
    }

    fn check(&self, counts: &[u64]) -> Result<(), KeyError> {
        for (field, &count) in ["reference", "held_out"].into_iter().zip(counts) {
            require(count > 0, field, || "found no image, expected at least one".into())?;
        }
        Ok(())
    }

    fn begin<'a>(
        &'a self,
        subjects: &'a [Subject<'a>],
        group: &'a ProcessGroup,
    ) -> Result<Box<dyn FeatureConsumer + 'a>> {
        Ok(Box::new(FromPooled(move |sets: &[&[Features]]| {
            let figures = subjects.iter().enumerate().map(|(number, subject)| {
                let share = accuracy(&sets[0][number], &sets[1][number], group.device())?;
                Ok(subject.measurement(TOP1, share))
            });
            figures.collect()
        })))
    }
}

/// The share of the held-out images whose class has the centroid of highest cosine with their feature;
/// of equally near classes the lowest is taken. Similarities are computed on `device`.
///
/// # Errors
/// The features are of different widths, there are none, or the device has no memory left.
pub fn accuracy(reference: &Features, held_out: &Features, device: Device) -> Result<f64> {
    let widths = [reference, held_out].map(|features| features.vectors.size()[1]);
    ensure!(widths[0] == widths[1], "features of the widths {} and {}", widths[0], widths[1]);
    ensure!(reference.count() > 0 && held_out.count() > 0, "there is no image");
    let (classes, centroids) = centroids(reference);
    let centroids = centroids.to_device(device).tr();
    let numbers = Tensor::arange(classes.len() as i64, (Kind::Int64, device));
    let mut right = 0;
    for (vectors, labels) in blocks(held_out) {
        let similarities = vectors.to_device(device).matmul(&centroids);
        let is_highest = similarities.eq_tensor(&similarities.amax([1].as_slice(), true));
        let nearest = numbers
            .where_scalarother(&is_highest, classes.len() as i64)
            .amin([1].as_slice(), false);
        let nearest = Vec::<i64>::try_from(nearest)?;
        right += nearest
            .iter()
            .zip(labels)
            .filter(|(at, label)| classes.get(**at as usize) == Some(*label))
            .count();
        status::beat();
    }
    Ok(right as f64 / held_out.count() as f64)
}

/// The classes in ascending order, and the mean feature of each divided by its length: `[C, D]`,
/// float32. Summed on the host in float64 and in the order of images: the same on every device.
fn centroids(reference: &Features) -> (Vec<u32>, Tensor) {
    let mut classes = reference.labels.clone();
    classes.sort_unstable();
    classes.dedup();
    let width = reference.vectors.size()[1];
    let mut sums = Tensor::zeros([classes.len() as i64, width], (Kind::Double, Device::Cpu));
    for (vectors, labels) in blocks(reference) {
        let place = |label: &u32| classes.partition_point(|class| class < label) as i64;
        let places = Tensor::from_slice(&labels.iter().map(place).collect::<Vec<_>>());
        let vectors = vectors.to_device(Device::Cpu).to_kind(Kind::Double);
        let _ = sums.index_add_(0, &places, &vectors);
    }
    // A mean has the direction of its sum.
    let length = sums.square().sum_dim_intlist([1].as_slice(), true, Kind::Double).sqrt();
    let centroids = sums / length.clamp_min(1e-12);
    (classes, centroids.to_kind(Kind::Float))
}

/// Features and classes of some images at a time.
fn blocks(features: &Features) -> impl Iterator<Item = (Tensor, &[u32])> {
    let labels = features.labels.chunks(BLOCK as usize);
    labels.enumerate().map(|(number, labels)| {
        let first = number as i64 * BLOCK;
        (features.vectors.narrow(0, first, labels.len() as i64), labels)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(rows: &[[f32; 2]], labels: &[u32]) -> Features {
        let vectors = Tensor::from_slice(&rows.concat()).view([-1, 2]);
        Features::new(vectors, labels.to_vec())
    }

    /// A class far from the origin is no nearer for that, and of equally near classes the lowest wins.
    #[test]
    fn the_nearest_is_by_angle_and_ties_go_to_the_lowest() {
        let reference = features(&[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]], &[7, 2, 2, 9]);
        let right = |x: f32, y: f32, label| {
            accuracy(&reference, &features(&[[x, y]], &[label]), Device::Cpu).unwrap()
        };
        assert_eq!((right(0.8, 0.6, 7), right(0.8, 0.6, 2)), (1.0, 0.0));
        assert_eq!((right(0.0, 1.0, 2), right(0.0, 1.0, 9)), (1.0, 0.0));
        assert_eq!(right(0.0, -1.0, 7), 1.0);
        assert_eq!(right(1.0, 0.0, 3), 0.0, "a class without a reference is never found");
    }
}
