//! Patches of images as vectors with the classes of their pixels.

use tch::{Kind, Tensor};

use crate::eval::dense::IGNORED;

/// Patches `[B, rows, columns, D]`, each divided by its length: `[P, D]` float32, P = B · rows · columns.
pub fn unit_vectors(patches: &Tensor) -> Tensor {
    let vectors = patches.flatten(0, 2);
    let length = vectors.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Float).sqrt();
    vectors / length.clamp_min(1e-12)
}

/// What the pixels of patches are, on the device of the targets.
pub struct PatchLabels {
    /// The share of each class among the pixels that count: `[P, K]` float32.
    pub shares: Tensor,
    /// The class of most of them, the lowest of several: `[P]` int64.
    pub class: Tensor,
    /// Whether any pixel counts: `[P]` bool.
    pub counts: Tensor,
}

impl PatchLabels {
    /// Those of targets `[B, S, S]` uint8, cut into `rows` × `columns` patches each; [`IGNORED`] does not
    /// count.
    pub fn new(targets: &Tensor, [rows, columns]: [i64; 2], classes: i64) -> Self {
        let (batch, height, width) = targets.size3().expect("targets are [B, S, S]");
        let [tall, wide] = [height / rows, width / columns];
        let pixels = targets
            .reshape([batch, rows, tall, columns, wide])
            .permute([0, 1, 3, 2, 4])
            .reshape([batch * rows * columns, tall * wide])
            .to_kind(Kind::Int64);
        // What does not count has a column of its own, which is cut off.
        let column = pixels.where_scalarother(&pixels.ne(IGNORED), classes);
        let ones = Tensor::ones_like(&column).to_kind(Kind::Float);
        let numbers = Tensor::zeros([column.size()[0], classes + 1], (Kind::Float, ones.device()))
            .scatter_add(1, &column, &ones)
            .narrow(1, 0, classes);
        let all = numbers.sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
        Self {
            class: numbers.argmax(1, false),
            counts: all.squeeze_dim(1).gt(0),
            shares: numbers / all.clamp_min(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares are those of a count by hand; pixels that do not count have none.
    #[test]
    fn shares_are_those_of_the_pixels_that_count() {
        let rows: [[u8; 4]; 4] = [[0, 0, 1, 2], [2, 255, 2, 1], [255, 255, 2, 2], [255, 255, 2, 2]];
        let targets = Tensor::from_slice(&rows.concat()).view([1, 4, 4]);
        let PatchLabels { shares, class, counts } = PatchLabels::new(&targets, [2, 2], 3);
        assert_eq!(Vec::<i64>::try_from(class.narrow(0, 0, 2)).unwrap(), [0, 1], "the lowest");
        assert_eq!(Vec::<bool>::try_from(counts).unwrap(), [true, true, false, true]);
        let third = 1.0f32 / 3.0;
        let expected = [2.0 * third, 0.0, third, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        let off = (shares.flatten(0, 1) - Tensor::from_slice(&expected)).abs().max();
        assert!(off.double_value(&[]) < 1e-6, "{shares}");
    }
}
