//! k-nearest-neighbour classification: how often the classes of an image's nearest reference
//! images tell its own.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use super::features::Features;
use crate::native::guard;
use crate::status;

/// Held-out and reference images whose similarities are computed at a time: on their way to
/// neighbours these take some 40 bytes each, two thirds of a gigabyte together.
const HELD_OUT_BLOCK: i64 = 512;
const REFERENCE_BLOCK: i64 = 1 << 15;

/// A reference image near a held-out one.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Neighbour {
    /// Cosine of the two images' features.
    similarity: f32,
    /// Row of the reference.
    reference: usize,
}

/// Checks what may vote: so many `neighbours` of so many `references`, at this temperature.
///
/// # Errors
/// A number of neighbours is 0 or larger than the references, there is none, or the temperature is
/// not above 0.
pub fn check(neighbours: &[usize], temperature: f64, references: u64) -> Result<()> {
    ensure!(temperature > 0.0, "a temperature of {temperature}, expected more than 0");
    ensure!(!neighbours.is_empty(), "no number of neighbours is given");
    for &count in neighbours {
        ensure!(count > 0, "0 neighbours cannot vote");
        ensure!(
            count as u64 <= references,
            "{count} neighbours are more than the {references} reference images; give fewer \
             neighbours or more references"
        );
    }
    Ok(())
}

/// The share of the held-out images whose class gets most votes of their nearest references, for
/// each number of `neighbours`.
///
/// A neighbour of cosine `s` votes with the weight exp(s / `temperature`) for its class. Of equally
/// near references those that came first are nearer; of classes with the same votes the lowest wins.
///
/// # Errors
/// [`check`]'s, the features are of different widths, or the device has no memory left.
pub fn accuracies(
    reference: &Features,
    held_out: &Features,
    neighbours: &[usize],
    temperature: f64,
) -> Result<Vec<f64>> {
    check(neighbours, temperature, reference.count() as u64)?;
    let widths = [reference, held_out].map(|features| features.vectors.size()[1]);
    ensure!(widths[0] == widths[1], "features of the widths {} and {}", widths[0], widths[1]);
    let most = neighbours.iter().copied().max().unwrap_or(0);
    let mut right = vec![0u64; neighbours.len()];
    let rows = held_out.count() as i64;
    ensure!(rows > 0, "there is no held-out image");
    let mut votes = Votes::new(&reference.labels, temperature);
    for first in (0..rows).step_by(HELD_OUT_BLOCK as usize) {
        let count = HELD_OUT_BLOCK.min(rows - first);
        let block = held_out.vectors.narrow(0, first, count);
        let nearest = guard(|| nearest(&reference.vectors, &block, most, REFERENCE_BLOCK))?;
        let labels = &held_out.labels[first as usize..];
        status::beat();
        for (nearest, &label) in nearest.chunks(most).zip(labels) {
            for (right, &count) in right.iter_mut().zip(neighbours) {
                *right += u64::from(votes.winner(&nearest[..count]) == label);
            }
        }
    }
    Ok(right.into_iter().map(|right| right as f64 / rows as f64).collect())
}

/// The `most` references nearest to each of `held_out` `[Q, D]`, nearest first, Q after another;
/// `block` references are looked at at a time.
fn nearest(
    references: &Tensor,
    held_out: &Tensor,
    most: usize,
    block: i64,
) -> Result<Vec<Neighbour>> {
    let rows = references.size()[0];
    let mut best: Option<Tensor> = None;
    for first in (0..rows).step_by(block as usize) {
        let part = references.narrow(0, first, block.min(rows - first));
        let keys = keys(&held_out.matmul(&part.tr()), first);
        let together = best.map_or(keys.shallow_clone(), |best| Tensor::cat(&[best, keys], 1));
        let count = together.size()[1].min(most as i64);
        best = Some(together.topk(count, 1, true, true).0);
    }
    let keys = best.map_or(Ok(vec![]), |best| Vec::<i64>::try_from(best.flatten(0, 1)))?;
    Ok(keys.into_iter().map(neighbour).collect())
}

/// Whole numbers `[Q, R]` that are in the order of the similarities `[Q, R]` (float32), and where
/// those are equal, in the opposite order of their references, which are counted from `first` on.
/// So the nearest are the same on every device, however the references are divided.
fn keys(similarities: &Tensor, first: i64) -> Tensor {
    // There is one zero, so that both are equal.
    let bits = (similarities + 0.0).view_dtype(Kind::Int).to_kind(Kind::Int64);
    // The bits of negative numbers grow as these fall.
    let ordered = bits.where_self(&bits.ge(0), &bits.bitwise_xor(LOW_BITS_OF_A_FLOAT));
    let references = Tensor::arange(similarities.size()[1], (Kind::Int64, similarities.device()));
    ordered * (1i64 << 32) + (i64::from(u32::MAX) - first - references)
}

/// All but the sign.
const LOW_BITS_OF_A_FLOAT: i64 = 0x7fff_ffff;

/// What a key stands for.
fn neighbour(key: i64) -> Neighbour {
    let ordered = key >> 32;
    let bits = if ordered >= 0 { ordered } else { ordered ^ LOW_BITS_OF_A_FLOAT };
    let reference = i64::from(u32::MAX) - (key & i64::from(u32::MAX));
    Neighbour { similarity: f32::from_bits(bits as u32), reference: reference as usize }
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

    /// The class with most votes of `neighbours`, of which there is one at least.
    fn winner(&mut self, neighbours: &[Neighbour]) -> u32 {
        // Relative to the nearest, so that no temperature makes a weight infinite.
        let highest = f64::from(neighbours[0].similarity);
        for neighbour in neighbours {
            let nearness = f64::from(neighbour.similarity) - highest;
            self.votes[self.class_of[neighbour.reference]] += (nearness / self.temperature).exp();
        }
        let (mut winner, mut most) = (usize::MAX, 0.0);
        for class in neighbours.iter().map(|neighbour| self.class_of[neighbour.reference]) {
            let votes = self.votes[class];
            if votes > most || (votes == most && class < winner) {
                (winner, most) = (class, votes);
            }
        }
        for neighbour in neighbours {
            self.votes[self.class_of[neighbour.reference]] = 0.0;
        }
        self.classes[winner]
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::draws::{Draws, Purpose};

    /// Rows of small whole numbers, whose products are exact and often equal.
    fn coarse(rows: i64, seed: u64) -> Tensor {
        let mut draws = Draws::new(seed, Purpose::Crop, 0, 0);
        let values: Vec<f32> = (0..rows * 5).map(|_| draws.below(5) as f32 - 2.0).collect();
        Tensor::from_slice(&values).view([rows, 5])
    }

    /// Similarities by plain loops, sorted: higher first, then the earlier reference.
    fn sorted(references: &Tensor, held_out: &Tensor) -> Vec<Vec<Neighbour>> {
        let rows = |tensor: &Tensor| Vec::<Vec<f32>>::try_from(tensor).unwrap();
        let references = rows(references);
        let of_one = |query: &Vec<f32>| {
            let product = |row: &Vec<f32>| row.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
            let mut all: Vec<Neighbour> = (0..references.len())
                .map(|reference| Neighbour {
                    similarity: product(&references[reference]),
                    reference,
                })
                .collect();
            // Stable, and with one zero.
            all.sort_by(|a, b| b.similarity.partial_cmp(&a.similarity).unwrap());
            all
        };
        rows(held_out).iter().map(of_one).collect()
    }

    /// Neighbours are those of a plain sort, in its order also where they are equally near and where
    /// similarities are negative, however the references are divided.
    #[test]
    fn the_nearest_are_the_same_for_any_division() {
        let (references, held_out) = (coarse(300, 1), coarse(40, 2));
        let expected = sorted(&references, &held_out);
        for most in [1, 7, 300] {
            for block in [1, 13, 299, 300, 1 << 16] {
                let found = nearest(&references, &held_out, most, block).unwrap();
                for (found, expected) in found.chunks(most).zip(&expected) {
                    assert!(found == &expected[..most], "{most} in blocks of {block}");
                }
            }
        }
    }

    fn at(similarity: f32, reference: usize) -> Neighbour {
        Neighbour { similarity, reference }
    }

    /// Equal votes go to the lowest class, and weights stay numbers at any temperature.
    #[test]
    fn ties_go_to_the_lowest_class() {
        let mut votes = Votes::new(&[900, 4, 70, 4], 0.07);
        assert_eq!(votes.winner(&[at(0.5, 0), at(0.5, 2)]), 70);
        assert_eq!(votes.winner(&[at(0.5, 0), at(0.5, 2), at(0.5, 1)]), 4);
        assert_eq!(votes.winner(&[at(0.5, 0), at(0.4, 1), at(0.4, 3)]), 900);
        assert_eq!(votes.winner(&[at(0.5, 0), at(0.49, 1), at(0.49, 3)]), 4);
        let mut cold = Votes::new(&[9, 4, 4], 1e-6);
        assert_eq!(cold.winner(&[at(1.0, 0), at(0.99, 1), at(0.99, 2)]), 9);
    }

    /// More neighbours than references is the caller's mistake, and said so.
    #[test]
    fn neighbours_are_checked() {
        let features = |rows| Features {
            vectors: Tensor::ones([rows, 5], (Kind::Float, Device::Cpu)),
            labels: vec![3; rows as usize],
            left_out: Default::default(),
        };
        assert_eq!(accuracies(&features(4), &features(2), &[4, 1], 0.07).unwrap(), [1.0, 1.0]);
        let error = accuracies(&features(4), &features(2), &[1, 5], 0.07).unwrap_err();
        assert!(error.to_string().contains("5 neighbours are more than the 4"), "{error}");
        assert!(accuracies(&features(4), &features(2), &[0], 0.07).is_err());
    }
}
