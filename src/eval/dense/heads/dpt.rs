//! The DPT head: the decoder of a dense prediction transformer (Ranftl et al., 2021) on four blocks.
//!
//! F = 256 and widths C0..C3 = 256, 512, 1024, 1024 unless told otherwise; sizes are for maps of
//! 16 × 16. Stage I takes the I-th map.
//!
//! | tensors | shape | gives |
//! | --- | --- | --- |
//! | `project.I.{weight,bias}` | `[CI, C, 1, 1]` | `[CI, 16, 16]` |
//! | `resize.0`, `resize.1` | `[CI, CI, 4, 4]`, `[CI, CI, 2, 2]`, transposed | 64 × 64, 32 × 32 |
//! | `resize.3` | `[C3, C3, 3, 3]`, stride 2 | 8 × 8 |
//! | `reduce.I.weight` | `[F, CI, 3, 3]`, no bias | `[F, …]` |
//! | `fuse.I.{skip,main}.{0,1}`, `fuse.I.out` | `[F, F, 3, 3]`, `[F, F, 1, 1]` | 16, 32, 64, 128 |
//! | `predict.0`, `predict.1` | `[F, F, 3, 3]`, `[K, F, 1, 1]` | `[K, 128, 128]` |
//!
//! `fuse.3.skip` has nothing to be added to: it is made, as in the release, and never used.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::convolution::{Convolution, enlarge};
use super::head::{Head, Pass};
use crate::nn::Parameters;

/// Names of parameters that are never used begin so.
pub(super) const UNUSED: &str = "fuse.3.skip.";

/// Widths of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DptShape {
    /// Width of what is fused, F.
    pub fused: i64,
    /// Widths of the four stages.
    pub stages: [i64; 4],
}

impl Default for DptShape {
    fn default() -> Self {
        Self { fused: 256, stages: [256, 512, 1024, 1024] }
    }
}

/// The last block of each quarter of an encoder of `depth` blocks: `k·⌊depth/4⌋ − 1`, from 0. Of an
/// encoder of fewer than four blocks, its last ones, the first of them repeated.
pub fn dpt_blocks(depth: usize) -> Vec<usize> {
    match depth / 4 {
        0 => (1..=4).map(|k| (depth + k).saturating_sub(5)).collect(),
        quarter => (1..=4).map(|k| k * quarter - 1).collect(),
    }
}

/// The head. Fields are named as its tensors.
pub(super) struct Dpt {
    project: Vec<Convolution>,
    /// Of stages 0, 1 and 3.
    resize: [Convolution; 3],
    reduce: Vec<Convolution>,
    fuse: Vec<Fusion>,
    predict: [Convolution; 2],
}

/// Two 3×3 convolutions with a bypass.
struct ResidualUnit([Convolution; 2]);

struct Fusion {
    /// None at the coarsest stage, which has nothing to be added to.
    skip: Option<ResidualUnit>,
    main: ResidualUnit,
    out: Convolution,
}

impl Dpt {
    /// From maps of `features` channels to `outputs` channels.
    pub fn new(parameters: &mut Parameters, features: i64, outputs: i64, shape: DptShape) -> Self {
        let DptShape { fused, stages } = shape;
        let of_stages =
            |parameters: &mut Parameters, name, from: [i64; 4], to: [i64; 4], side, bias| {
                parameters.scoped(name, |parameters| {
                    let one = |stage: usize| {
                        let channels = [from[stage], to[stage]];
                        Convolution::new(parameters, &stage.to_string(), channels, side, bias)
                    };
                    (0..4).map(one).collect::<Vec<_>>()
                })
            };
        let project = of_stages(parameters, "project", [features; 4], stages, 1, true);
        let resize = parameters.scoped("resize", |parameters| {
            [
                Convolution::transposed(parameters, "0", stages[0], 4),
                Convolution::transposed(parameters, "1", stages[1], 2),
                Convolution::new(parameters, "3", [stages[3]; 2], 3, true),
            ]
        });
        let reduce = of_stages(parameters, "reduce", stages, [fused; 4], 3, false);
        let fuse = parameters.scoped("fuse", |parameters| {
            let one = |stage: usize| {
                parameters.scoped(&stage.to_string(), |parameters| {
                    let skip = ResidualUnit::new(parameters, "skip", fused);
                    Fusion {
                        skip: (stage < 3).then_some(skip),
                        main: ResidualUnit::new(parameters, "main", fused),
                        out: Convolution::new(parameters, "out", [fused; 2], 1, true),
                    }
                })
            };
            (0..4).map(one).collect()
        });
        let predict = parameters.scoped("predict", |parameters| {
            [
                Convolution::new(parameters, "0", [fused; 2], 3, true),
                Convolution::new(parameters, "1", [fused, outputs], 1, true),
            ]
        });
        Self { project, resize, reduce, fuse, predict }
    }

    /// The map of a stage at the stage's size and width: `[B, F, …]`.
    fn stage(&self, stage: usize, map: &Tensor, compute: Kind) -> Tensor {
        let projected = self.project[stage].forward(map, 1, 0, compute);
        let resized = match stage {
            0 => self.resize[0].enlarge(&projected, 4, compute),
            1 => self.resize[1].enlarge(&projected, 2, compute),
            2 => projected,
            _ => self.resize[2].forward(&projected, 2, 1, compute),
        };
        self.reduce[stage].forward(&resized, 1, 1, compute)
    }
}

impl Head for Dpt {
    fn output(&self, maps: &[Tensor], _: Pass<'_>, compute: Kind) -> Result<Tensor> {
        let stages: Vec<Tensor> =
            maps.iter().enumerate().map(|(stage, map)| self.stage(stage, map, compute)).collect();
        let mut path: Option<Tensor> = None;
        for (stage, fusion) in self.fuse.iter().enumerate().rev() {
            let size = match stage.checked_sub(1) {
                Some(finer) => size_of(&stages[finer]),
                None => size_of(&stages[0]).map(|side| 2 * side),
            };
            path = Some(fusion.forward(path, &stages[stage], size, compute));
        }
        let path = path.expect("there are four stages");
        let hidden = self.predict[0].forward(&path, 1, 1, compute).relu();
        Ok(self.predict[1].forward(&hidden, 1, 0, compute).to_kind(Kind::Float))
    }
}

impl Fusion {
    /// What has come so far and `stage`, together at the next `size`.
    fn forward(
        &self,
        path: Option<Tensor>,
        stage: &Tensor,
        size: [i64; 2],
        compute: Kind,
    ) -> Tensor {
        let joined = match (path, &self.skip) {
            (Some(path), Some(skip)) => path + skip.forward(stage, compute),
            _ => stage.shallow_clone(),
        };
        let enlarged = enlarge(&self.main.forward(&joined, compute), size);
        self.out.forward(&enlarged, 1, 0, compute)
    }
}

impl ResidualUnit {
    fn new(parameters: &mut Parameters, name: &str, width: i64) -> Self {
        let one = |parameters: &mut Parameters, name| {
            Convolution::new(parameters, name, [width; 2], 3, true)
        };
        parameters.scoped(name, |parameters| Self([one(parameters, "0"), one(parameters, "1")]))
    }

    fn forward(&self, input: &Tensor, compute: Kind) -> Tensor {
        let hidden = self.0[0].forward(&input.relu(), 1, 1, compute);
        input + self.0[1].forward(&hidden.relu(), 1, 1, compute)
    }
}

fn size_of(map: &Tensor) -> [i64; 2] {
    let (_, _, height, width) = map.size4().expect("maps are [B, C, h, w]");
    [height, width]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_the_last_of_each_quarter() {
        assert_eq!(dpt_blocks(12), [2, 5, 8, 11]);
        assert_eq!(dpt_blocks(32), [7, 15, 23, 31]);
        assert_eq!(dpt_blocks(6), [0, 1, 2, 3]);
        assert_eq!(dpt_blocks(2), [0, 0, 0, 1]);
        assert_eq!(dpt_blocks(1), [0, 0, 0, 0]);
    }
}
