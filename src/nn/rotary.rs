//! Rotary positions (Su et al., "RoFormer", 2021) over the two axes of a patch grid.

use std::f64::consts::TAU;

use tch::{Device, Kind, Tensor};

/// What fixes the angles by which queries and keys are turned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RotaryShape {
    /// Width of an attention head, a multiple of 4: a quarter are the frequencies of each axis.
    pub head_dim: i64,
    /// The quotient between the first and, if it went on by one, the last frequency.
    pub theta: f64,
    /// Tokens before those of the patches, which are not turned.
    pub prefix_tokens: i64,
}

/// Cosines and sines for the tokens of one pass, `[1, T, 1, d]` or `[B, T, 1, d]`, d being a head's width. The first
/// half of the sines is negated.
pub struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

impl RotaryShape {
    /// Those of a grid of `rows` × `columns` patches, or of its patches `keep` `[B, K]` alone, in the kind of products.
    ///
    /// As in `DINOv3ViTModel`, a patch's coordinates are those of its centre, in −1 … 1 along each axis of whatever
    /// size. Frequency i of d/4 is 2π · theta^(−4i/d); the angles of rows stand before those of columns, and number
    /// j of a head is turned with number j + d/2.
    pub fn table(
        &self,
        [rows, columns]: [i64; 2],
        keep: Option<&Tensor>,
        (kind, device): (Kind, Device),
    ) -> Rotary {
        let options = (Kind::Float, device);
        let quarter = self.head_dim / 4;
        let exponents = Tensor::arange(quarter, options) * (-self.theta.ln() / quarter as f64);
        let frequencies = exponents.exp() * TAU;
        let of_axis = |count: i64| {
            let centres = (Tensor::arange(count, options) + 0.5) * (2.0 / count as f64) - 1.0;
            centres.unsqueeze(-1) * &frequencies
        };
        let over_grid = |angles: Tensor| angles.expand([rows, columns, quarter], false);
        let of_rows = over_grid(of_axis(rows).unsqueeze(1));
        let of_columns = over_grid(of_axis(columns).unsqueeze(0));
        let angles = Tensor::cat(&[of_rows, of_columns], -1).flatten(0, 1);
        let angles = match keep {
            None => angles.unsqueeze(0),
            Some(keep) => {
                let (batch, kept) = keep.size2().expect("kept patches are [B, K]");
                angles.index_select(0, &keep.flatten(0, 1)).view([batch, kept, -1])
            }
        };
        // An angle of 0 leaves a token as it is.
        let angles = angles.constant_pad_nd([0, 0, self.prefix_tokens, 0]).unsqueeze(2);
        let sin = angles.sin();
        Rotary { cos: angles.cos().repeat([1, 1, 1, 2]), sin: Tensor::cat(&[-&sin, sin], -1) }
            .to_kind(kind)
    }
}

impl Rotary {
    /// The same in another kind.
    pub fn to_kind(&self, kind: Kind) -> Self {
        Self { cos: self.cos.to_kind(kind), sin: self.sin.to_kind(kind) }
    }

    /// Cosines, and sines of which the first half is negated, each `[1, T, 1, d]` or `[B, T, 1, d]`.
    pub fn factors(&self) -> [Tensor; 2] {
        [self.cos.shallow_clone(), self.sin.shallow_clone()]
    }

    /// Those of these images `[K]` of the batch; of all of them where none are named.
    pub(super) fn of_images(&self, images: Option<&Tensor>) -> Self {
        let of_images = |table: &Tensor| match images {
            Some(images) if table.size()[0] > 1 => table.index_select(0, images),
            _ => table.shallow_clone(),
        };
        Self { cos: of_images(&self.cos), sin: of_images(&self.sin) }
    }

    /// Queries or keys `[B, T, heads, d]`, turned.
    pub(super) fn turned(&self, heads: &Tensor) -> Tensor {
        let half = self.cos.size()[3] / 2;
        // Halves exchanged, which the sines' signs make a quarter turn.
        let exchanged = heads.roll([half], [3]);
        (heads * &self.cos).addcmul(&exchanged, &self.sin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: RotaryShape = RotaryShape { head_dim: 8, theta: 100.0, prefix_tokens: 2 };

    fn table(grid: [i64; 2], keep: Option<&Tensor>) -> Rotary {
        SHAPE.table(grid, keep, (Kind::Float, Device::Cpu))
    }

    /// Lengths stay, prefix tokens stay, and what attention compares depends on where patches lie to each other alone.
    #[test]
    fn turning_keeps_lengths_and_differences() {
        let rotary = table([3, 5], None);
        let one = Tensor::arange(8, (Kind::Float, Device::Cpu)).sin() + 0.3;
        let all = one.view([1, 1, 1, 8]).expand([1, 17, 1, 8], false);
        let turned = rotary.turned(&all);
        let length = |tokens: &Tensor| tokens.square().sum_dim_intlist(-1, false, Kind::Float);
        assert!((length(&turned) - length(&all)).abs().max().double_value(&[]) < 1e-5);
        assert!(turned.narrow(1, 0, 2).equal(&all.narrow(1, 0, 2)));
        let product = |first: i64, second: i64| {
            let patch = |index: i64| turned.select(1, 2 + index);
            (patch(first) * patch(second)).sum(Kind::Float).double_value(&[])
        };
        // One row down and one column to the right, from two places.
        assert!((product(0, 6) - product(8, 14)).abs() < 1e-5);
        assert!((product(0, 6) - product(0, 1)).abs() > 1e-2);
    }

    /// Kept patches are turned as among all.
    #[test]
    fn kept_patches_have_their_own_angles() {
        let (all, keep) = (table([2, 3], None), Tensor::from_slice2(&[[5i64, 1], [0, 2]]));
        let kept = table([2, 3], Some(&keep));
        for (image, patches) in [[5, 1], [0, 2]].into_iter().enumerate() {
            for (place, patch) in patches.into_iter().enumerate() {
                let found = kept.sin.get(image as i64).get(2 + place as i64);
                assert!(found.equal(&all.sin.get(0).get(2 + patch)));
            }
        }
        let second = kept.of_images(Some(&Tensor::from_slice(&[1i64])));
        assert!(second.cos.get(0).equal(&kept.cos.get(1)));
    }
}
