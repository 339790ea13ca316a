//! Linear classification of frozen features: validation images pick one of many classifiers, test
//! images tell how good it is.

mod few_shot;
mod grid;
mod logistic;
mod probe;
mod settings;
mod vectors;

use anyhow::{Result, ensure};
use indicatif::HumanCount;
use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};
use tracing::info;

pub use probe::{Found, Images, probe};
pub use settings::{Linear, Solver};

use crate::artifacts::{Measurement, Metric};
use crate::config::{Check, KeyError, require};
use crate::dist::ProcessGroup;
use crate::eval::evaluation::{
    Evaluation, FeatureConsumer, ImageSet, SetImages, Settings, Subject, metrics_by_name,
};
use crate::eval::extract::{DenseBatch, Features};

const TOP1: &str = "top1";
const VALIDATION: &str = "validation_top1";

impl Settings for Linear {
    const KIND: &str = "linear";

    fn validate(&self) -> Check {
        self.image_sets().iter().try_for_each(ImageSet::validate)?;
        self.check_numbers()
    }
}

impl Evaluation for Linear {
    fn title(&self) -> String {
        "Linear top-1 accuracy".into()
    }

    fn description(&self, counts: &[u64]) -> String {
        let count = |number: usize| HumanCount(counts[number]);
        let chosen_by = match self.validation.is_empty() {
            true => "a tenth of them".into(),
            false => format!("{} validation images", count(2)),
        };
        let how = match self.solver {
            Solver::Sgd => "gradient descent, one for each learning rate",
            Solver::Lbfgs => "logistic regression, one for each strength",
        };
        format!(
            "Top-1 accuracy on {} test images of the best of several linear classifiers of frozen \
             class tokens, with and without the mean patch token, of {} training images ({how}), chosen \
             by {chosen_by}",
            count(1),
            count(0)
        )
    }

    fn metrics(&self) -> Vec<Metric> {
        let metric = |name: &str, label: &str| Metric::share(name, label);
        let mut metrics = vec![metric(TOP1, "test"), metric(VALIDATION, "valid.")];
        for &shots in &self.shots {
            let [mean, deviation] = shot_names(shots);
            metrics.push(metric(&mean, &format!("{shots} shot")));
            metrics.push(metric(&deviation, "± dev."));
        }
        metrics
    }

    fn to_json(&self, measurements: &[Measurement]) -> Map<String, Value> {
        let mut object = metrics_by_name(measurements);
        let chosen = measurements.iter().find_map(|one| one.detail.clone());
        object.insert("chosen".into(), chosen.into());
        object
    }

    fn image_sets(&self) -> Vec<ImageSet> {
        let set = |title, field, shards: &[String], most| ImageSet {
            title,
            field,
            images: SetImages::Labelled(shards.to_vec()),
            most,
            is_dense: true,
        };
        let mut sets = vec![
            set("training", "train", &self.train, self.most_train),
            set("test", "test", &self.test, self.most_test),
        ];
        if !self.validation.is_empty() {
            sets.push(set("validation", "validation", &self.validation, None));
        }
        sets
    }

    fn check(&self, counts: &[u64]) -> Result<(), KeyError> {
        // A command line's settings are checked here alone.
        self.check_numbers()?;
        for (set, &count) in self.image_sets().iter().zip(counts) {
            require(count > 0, set.field, || "found no image, expected at least one".into())?;
        }
        Ok(())
    }

    fn begin<'a>(
        &'a self,
        subjects: &'a [Subject<'a>],
        group: &'a ProcessGroup,
    ) -> Result<Box<dyn FeatureConsumer + 'a>> {
        let sets = self.image_sets().len();
        let gathered = (0..sets).map(|_| subjects.iter().map(|_| Vec::new()).collect()).collect();
        Ok(Box::new(Gathering { settings: self, subjects, group, gathered }))
    }
}

/// Metrics of so many images of each class: mean and deviation.
fn shot_names(shots: usize) -> [String; 2] {
    [format!("shots{shots}_top1"), format!("shots{shots}_deviation")]
}

/// Gathers the vectors of all images on the host: 8 · D bytes each.
struct Gathering<'a> {
    settings: &'a Linear,
    subjects: &'a [Subject<'a>],
    group: &'a ProcessGroup,
    /// Batches `[set][encoder]`, each `[B, 2D]`.
    gathered: Vec<Vec<Vec<Tensor>>>,
}

impl FeatureConsumer for Gathering<'_> {
    fn take(&mut self, set: usize, batch: &DenseBatch<'_>) -> Result<()> {
        let patches = batch.patches.mean_dim([1i64, 2].as_slice(), false, None);
        let vectors = Tensor::cat(&[&batch.class, &patches], 1).to_device(Device::Cpu);
        self.gathered[set][batch.encoder].push(vectors);
        Ok(())
    }

    fn finish(mut self: Box<Self>, pooled: &[&[Features]]) -> Result<Vec<Measurement>> {
        let mut measurements = Vec::new();
        for (number, subject) in self.subjects.iter().enumerate() {
            // Each encoder's batches are let go with it.
            let width = 2 * subject.encoder()?.model.shape().dim;
            let mut vectors = Vec::new();
            for set in &mut self.gathered {
                // A process may have no image.
                let none = Tensor::zeros([0, width], (Kind::Float, Device::Cpu));
                let batches = std::iter::once(none).chain(std::mem::take(&mut set[number]));
                let own = Tensor::cat(&batches.collect::<Vec<_>>(), 0);
                vectors.push(self.group.gather_rows(&own)?);
            }
            let images =
                |set: usize| Images { vectors: &vectors[set], labels: &pooled[set][number].labels };
            for vectors in &vectors {
                ensure!(
                    vectors.isfinite().all().int64_value(&[]) == 1,
                    "{} gives numbers that are not finite: are its weights damaged?",
                    subject.name
                );
            }
            let validation = (vectors.len() > 2).then(|| images(2));
            let found =
                probe(self.settings, &images(0), validation.as_ref(), &images(1), self.group)?;
            measurements.extend(self.measurements(subject, &found));
        }
        Ok(measurements)
    }
}

impl Gathering<'_> {
    fn measurements(&self, subject: &Subject<'_>, found: &Found) -> Vec<Measurement> {
        info!("{} ({}): {} is best", subject.name, subject.role.name(), found.chosen);
        let mut measurements = vec![
            Measurement {
                detail: Some(found.chosen.clone()),
                ..subject.measurement(TOP1, found.top1)
            },
            subject.measurement(VALIDATION, found.validation),
        ];
        for (&shots, spread) in self.settings.shots.iter().zip(&found.shots) {
            let [mean, deviation] = shot_names(shots);
            measurements.push(subject.measurement(&mean, spread.mean));
            measurements.push(subject.measurement(&deviation, spread.deviation));
        }
        measurements
    }
}
