//! The nearest of many features, exactly and in bounded memory.

use anyhow::Result;
use tch::{Kind, Tensor};

/// Held-out and reference features whose similarities are computed at a time: on their way to
/// neighbours these take some 40 bytes each, two thirds of a gigabyte together.
pub(super) const HELD_OUT_BLOCK: i64 = 512;
pub(super) const REFERENCE_BLOCK: i64 = 1 << 15;

/// A reference image near a held-out one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Neighbour {
    /// Cosine of the two images' features.
    pub similarity: f32,
    /// Row of the reference.
    pub reference: usize,
}

/// The `most` references nearest to each of `held_out` `[Q, D]`, nearest first, Q after another;
/// `block` references are looked at at a time.
pub(super) fn nearest(
    references: &Tensor,
    held_out: &Tensor,
    most: usize,
    block: i64,
) -> Result<Vec<Neighbour>> {
    let keys = nearest_keys(references, held_out, most, block);
    let keys = keys.map_or(Ok(vec![]), |keys| Vec::<i64>::try_from(keys.flatten(0, 1)))?;
    Ok(keys.into_iter().map(neighbour).collect())
}

/// Keys of the `most` references `[R, D]` nearest to each of `held_out` `[Q, D]`, nearest first: `[Q, N]`
/// int64 on their device, N the lesser of `most` and R; none without a reference. `block` references are
/// looked at at a time. Features are float32 or bf16; products of bf16 are summed in float32.
pub(super) fn nearest_keys(
    references: &Tensor,
    held_out: &Tensor,
    most: usize,
    block: i64,
) -> Option<Tensor> {
    let rows = references.size()[0];
    let mut best: Option<Tensor> = None;
    for first in (0..rows).step_by(block as usize) {
        let part = references.narrow(0, first, block.min(rows - first)).to_kind(Kind::Float);
        let keys = keys(&held_out.to_kind(Kind::Float).matmul(&part.tr()), first);
        let together = best.map_or(keys.shallow_clone(), |best| Tensor::cat(&[best, keys], 1));
        let count = together.size()[1].min(most as i64);
        best = Some(together.topk(count, 1, true, true).0);
    }
    best
}

/// What keys stand for, in their shape: similarities (float32) and rows of the references (int64).
pub(super) fn similarities_and_rows(keys: &Tensor) -> [Tensor; 2] {
    let ordered = keys.bitwise_right_shift_tensor_scalar(32);
    let bits = ordered.where_self(&ordered.ge(0), &ordered.bitwise_xor(LOW_BITS_OF_A_FLOAT));
    let rows = i64::from(u32::MAX) - keys.bitwise_and(i64::from(u32::MAX));
    [bits.to_kind(Kind::Int).view_dtype(Kind::Float), rows]
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

#[cfg(test)]
mod tests {
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
                let keys = nearest_keys(&references, &held_out, most, block).unwrap();
                let [similarities, rows] = similarities_and_rows(&keys.flatten(0, 1));
                let similarities = Vec::<f32>::try_from(similarities).unwrap();
                let rows = Vec::<i64>::try_from(rows).unwrap();
                for (found, pair) in found.iter().zip(similarities.iter().zip(&rows)) {
                    assert_eq!((&found.similarity, &(found.reference as i64)), pair);
                }
            }
        }
    }
}
