//! k-nearest-neighbour classification: how often the classes of an image's nearest reference
//! images tell its own.

use anyhow::{Result, anyhow, ensure};
use clap::Args;
use indicatif::HumanCount;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::nearest::{HELD_OUT_BLOCK, Neighbour, REFERENCE_BLOCK, nearest};
use crate::artifacts::{Measurement, Metric};
use crate::config::{Check, KeyError, Precision, require};
use crate::dist::ProcessGroup;
use crate::eval::evaluation::{
    Evaluation, FeatureConsumer, FromPooled, ImageSet, Settings, Subject,
};
use crate::eval::extract::Features;
use crate::native::guard;
use crate::status;

/// k-NN classification of labelled images by their pooled features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Args)]
#[serde(deny_unknown_fields)]
pub struct Knn {
    /// Labelled shards of the images that vote
    #[arg(long, required = true, num_args = 1.., value_name = "PATTERN")]
    pub reference: Vec<String>,
    /// Labelled shards of the images that are classified
    #[arg(long, required = true, num_args = 1.., value_name = "PATTERN")]
    pub held_out: Vec<String>,
    /// Numbers of neighbours that vote; each gives an accuracy
    #[arg(long, value_name = "K,...", value_delimiter = ',', default_values_t = NEIGHBOURS)]
    #[serde(default = "neighbours")]
    pub neighbours: Vec<usize>,
    /// A neighbour's vote weighs exp(cosine similarity / temperature)
    #[arg(long, value_name = "T", default_value_t = TEMPERATURE)]
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// Take so many reference images at most, spread evenly over all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_reference: Option<u64>,
    /// Take so many held-out images at most, spread evenly over all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_held_out: Option<u64>,
    /// Number format in which features are kept and compared
    #[arg(long, value_enum, default_value_t = Precision::Fp32)]
    #[serde(default, skip_serializing_if = "is_fp32")]
    pub features: Precision,
}

fn is_fp32(precision: &Precision) -> bool {
    *precision == Precision::Fp32
}

/// Numbers of neighbours of the published figures.
const NEIGHBOURS: [usize; 4] = [10, 20, 100, 200];

/// Temperature of the published figures.
const TEMPERATURE: f64 = 0.07;

fn neighbours() -> Vec<usize> {
    NEIGHBOURS.to_vec()
}
fn temperature() -> f64 {
    TEMPERATURE
}

impl Settings for Knn {
    const KIND: &str = "knn";

    fn validate(&self) -> Check {
        for set in self.image_sets() {
            set.validate()?;
        }
        let Self { neighbours, most_reference, temperature, .. } = self;
        require(!neighbours.is_empty() && !neighbours.contains(&0), "neighbours", || {
            format!("found {neighbours:?}, expected numbers above 0")
        })?;
        let most = neighbours.iter().copied().max().unwrap_or(0) as u64;
        let references = most_reference.unwrap_or(u64::MAX);
        require(most <= references, "most_reference", || {
            format!("found {references}, but {most} neighbours are to vote")
        })?;
        require(*temperature > 0.0 && temperature.is_finite(), "temperature", || {
            format!("found {temperature}, expected a number above 0")
        })
    }
}

impl Evaluation for Knn {
    fn title(&self) -> String {
        "k-NN top-1 and top-5 accuracy".into()
    }

    fn description(&self, counts: &[u64]) -> String {
        let [reference, held_out] = [0, 1].map(|set| HumanCount(counts[set]));
        format!(
            "Top-1 and top-5 accuracy on {held_out} held-out images by the votes of the k nearest of \
             {reference} reference images, by the cosine of frozen features, weighted with \
             temperature {}",
            self.temperature
        )
    }

    fn metrics(&self) -> Vec<Metric> {
        let of_place = |places| self.neighbours.iter().map(move |&k| metric(k, places));
        PLACES.into_iter().flat_map(of_place).collect()
    }

    fn main_metrics(&self) -> Vec<String> {
        let fewest = self.neighbours.first();
        let of_place = |places| fewest.map(|&k| metric(k, places).name);
        PLACES.into_iter().filter_map(of_place).collect()
    }

    fn image_sets(&self) -> Vec<ImageSet> {
        let Self { reference, held_out, most_reference, most_held_out, .. } = self;
        ImageSet::reference_and_held_out([reference, held_out], [*most_reference, *most_held_out])
    }

    fn check(&self, counts: &[u64]) -> Result<(), KeyError> {
        check(&self.neighbours, self.temperature, counts[0])
    }

    fn begin<'a>(
        &'a self,
        subjects: &'a [Subject<'a>],
        group: &'a ProcessGroup,
    ) -> Result<Box<dyn FeatureConsumer + 'a>> {
        Ok(Box::new(FromPooled(move |sets: &[&[Features]]| {
            let mut measurements = Vec::new();
            for (number, subject) in subjects.iter().enumerate() {
                // One encoder's at a time, where they are compared.
                let (device, kind) = (group.device(), self.features.kind());
                let [reference, held_out] = [0, 1].map(|set| sets[set][number].to(device, kind));
                let shares =
                    accuracies(&reference, &held_out, &self.neighbours, self.temperature, group)?;
                for (number, places) in PLACES.into_iter().enumerate() {
                    let pairs = self.neighbours.iter().zip(&shares);
                    measurements.extend(pairs.map(|(&k, shares)| {
                        subject.measurement(&metric(k, places).name, shares[number])
                    }));
                }
            }
            Ok(measurements)
        })))
    }

    /// `{"temperature": T, "accuracies": [{"neighbours": K, "top1": SHARE, "top5": SHARE}, …]}`.
    fn to_json(&self, measurements: &[Measurement]) -> Map<String, Value> {
        let (first, fifth) = measurements.split_at(self.neighbours.len().min(measurements.len()));
        let rows = self.neighbours.iter().zip(first.iter().zip(fifth));
        let accuracies: Vec<Value> = rows
            .map(|(k, (top1, top5))| json!({ "neighbours": k, "top1": top1.value, "top5": top5.value }))
            .collect();
        let own = [("temperature", self.temperature.into()), ("accuracies", accuracies.into())];
        own.map(|(key, value): (&str, Value)| (key.to_string(), value)).into_iter().collect()
    }
}

/// Among so many of the classes with most votes an image's own has to be.
const PLACES: [usize; 2] = [1, 5];

fn metric(k: usize, places: usize) -> Metric {
    let label = if places == 1 { format!("k = {k}") } else { format!("top-{places} {k}") };
    Metric::share(format!("top{places}_k{k}"), label)
}

/// Checks what may vote: so many `neighbours` of so many `references`, at this temperature.
fn check(neighbours: &[usize], temperature: f64, references: u64) -> Result<(), KeyError> {
    require(temperature > 0.0, "temperature", || {
        format!("a temperature of {temperature}, expected more than 0")
    })?;
    require(!neighbours.is_empty(), "neighbours", || "no number of neighbours is given".into())?;
    for &count in neighbours {
        require(count > 0, "neighbours", || "0 neighbours cannot vote".into())?;
        require(count as u64 <= references, "neighbours", || {
            format!(
                "{count} neighbours are more than the {references} reference images; give fewer \
                 neighbours or more references"
            )
        })?;
    }
    Ok(())
}

/// The shares of the held-out images whose class gets most votes of their nearest references, and whose
/// class is among the five with most votes, for each number of `neighbours`.
///
/// The processes of `group` share the held-out images, of which all have all features, and have the same
/// shares in the end. Features are float32 or bf16; products of bf16 are summed in float32.
///
/// A neighbour of cosine `s` votes with the weight exp(s / `temperature`) for its class. Of equally
/// near references those that came first are nearer; of classes with the same votes the lowest wins.
///
/// # Errors
/// There are no `neighbours`, one of them is 0 or larger than the references, the temperature is not
/// above 0, the features are of different widths, or the device has no memory left.
pub fn accuracies(
    reference: &Features,
    held_out: &Features,
    neighbours: &[usize],
    temperature: f64,
    group: &ProcessGroup,
) -> Result<Vec<[f64; 2]>> {
    check(neighbours, temperature, reference.count() as u64)
        .map_err(|(_, message)| anyhow!(message))?;
    let widths = [reference, held_out].map(|features| features.vectors.size()[1]);
    ensure!(widths[0] == widths[1], "features of the widths {} and {}", widths[0], widths[1]);
    let most = neighbours.iter().copied().max().unwrap_or(0);
    let mut right = vec![[0i64; 2]; neighbours.len()];
    let rows = held_out.count() as i64;
    ensure!(rows > 0, "there is no held-out image");
    let mut votes = Votes::new(&reference.labels, temperature);
    let own = group.share_of(rows as u64);
    let (begin, end) = (own.start as i64, own.end as i64);
    for first in (begin..end).step_by(HELD_OUT_BLOCK as usize) {
        let count = HELD_OUT_BLOCK.min(end - first);
        let block = held_out.vectors.narrow(0, first, count);
        let nearest = guard(|| nearest(&reference.vectors, &block, most, REFERENCE_BLOCK))?;
        let labels = &held_out.labels[first as usize..];
        status::beat();
        for (nearest, &label) in nearest.chunks(most).zip(labels) {
            for (right, &count) in right.iter_mut().zip(neighbours) {
                let place = votes.place(&nearest[..count], label);
                for (right, places) in right.iter_mut().zip(PLACES) {
                    *right += i64::from(place.is_some_and(|place| place < places));
                }
            }
        }
    }
    let shares = right.into_iter().map(|right| {
        let right = group.sum_counts(right)?;
        Ok(right.map(|right| right as f64 / rows as f64))
    });
    shares.collect()
}

/// Counts the votes of neighbours.
struct Votes {
    /// The classes of all references, ascending.
    classes: Vec<u32>,
    /// Place of each reference's class among them.
    class_of: Vec<usize>,
    temperature: f64,
    /// Of each class, 0 between counts.
    votes: Vec<f64>,
}

impl Votes {
    fn new(labels: &[u32], temperature: f64) -> Self {
        let mut classes = labels.to_vec();
        classes.sort_unstable();
        classes.dedup();
        let place = |label: &u32| classes.partition_point(|class| class < label);
        let class_of = labels.iter().map(place).collect();
        let votes = vec![0.0; classes.len()];
        Self { classes, class_of, temperature, votes }
    }

    /// How many classes have more votes of `neighbours`, of which there is one at least, than the class
    /// `label`; none if that has no vote. Of classes with the same votes the lowest is first.
    fn place(&mut self, neighbours: &[Neighbour], label: u32) -> Option<usize> {
        // Relative to the nearest, so that no temperature makes a weight infinite.
        let highest = f64::from(neighbours[0].similarity);
        for neighbour in neighbours {
            let nearness = f64::from(neighbour.similarity) - highest;
            self.votes[self.class_of[neighbour.reference]] += (nearness / self.temperature).exp();
        }
        let mut voted: Vec<usize> =
            neighbours.iter().map(|neighbour| self.class_of[neighbour.reference]).collect();
        voted.sort_unstable();
        voted.dedup();
        let own = voted.iter().copied().find(|&class| self.classes[class] == label);
        let place = own.map(|own| {
            let votes = self.votes[own];
            let is_before = |&class: &usize| {
                self.votes[class] > votes || (self.votes[class] == votes && class < own)
            };
            voted.iter().copied().filter(is_before).count()
        });
        for class in voted {
            self.votes[class] = 0.0;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    fn at(similarity: f32, reference: usize) -> Neighbour {
        Neighbour { similarity, reference }
    }

    /// Equal votes go to the lowest class, and weights stay numbers at any temperature.
    #[test]
    fn ties_go_to_the_lowest_class() {
        let mut votes = Votes::new(&[900, 4, 70, 4], 0.07);
        let mut order =
            |neighbours: &[Neighbour]| [900, 70, 4, 5].map(|label| votes.place(neighbours, label));
        assert_eq!(order(&[at(0.5, 0), at(0.5, 2)]), [Some(1), Some(0), None, None]);
        let all = [at(0.5, 0), at(0.5, 2), at(0.5, 1)];
        assert_eq!(order(&all), [Some(2), Some(1), Some(0), None]);
        assert_eq!(order(&[at(0.5, 0), at(0.4, 1), at(0.4, 3)]), [Some(0), None, Some(1), None]);
        assert_eq!(order(&[at(0.5, 0), at(0.49, 1), at(0.49, 3)]), [Some(1), None, Some(0), None]);
        let mut cold = Votes::new(&[9, 4, 4], 1e-6);
        assert_eq!(cold.place(&[at(1.0, 0), at(0.99, 1), at(0.99, 2)], 9), Some(0));
    }

    /// More neighbours than references is the caller's mistake, and said so.
    #[test]
    fn neighbours_are_checked() {
        let alone = ProcessGroup::alone(Device::Cpu, || false);
        let features = |rows| {
            Features::new(
                Tensor::ones([rows, 5], (Kind::Float, Device::Cpu)),
                vec![3; rows as usize],
            )
        };
        let found =
            |neighbours: &[usize]| accuracies(&features(4), &features(2), neighbours, 0.07, &alone);
        assert_eq!(found(&[4, 1]).unwrap(), [[1.0; 2]; 2]);
        let error = found(&[1, 5]).unwrap_err();
        assert!(error.to_string().contains("5 neighbours are more than the 4"), "{error}");
        assert!(found(&[0]).is_err());
    }
}
