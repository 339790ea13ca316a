//! The kinds of heads, and how one is built.

use serde::{Deserialize, Serialize};

use super::dpt::{self, Dpt, DptShape, dpt_blocks};
use super::head::Head;
use super::linear::Linear;
use crate::nn::Parameters;

/// The kinds of heads.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum HeadKind {
    /// A batch norm and one 1×1 convolution on the last block.
    Linear,
    /// The dense prediction transformer's decoder on four blocks.
    Dpt,
}

/// Sizes of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Channels of each map.
    pub features: i64,
    /// Channels of the output.
    pub outputs: i64,
    /// Widths, where the head is a [`HeadKind::Dpt`].
    pub dpt: DptShape,
}

impl HeadKind {
    /// As configurations name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Dpt => "dpt",
        }
    }

    /// The blocks of an encoder of `depth` blocks whose maps the head takes, ascending, from 0.
    pub fn blocks(self, depth: usize) -> Vec<usize> {
        match self {
            Self::Linear => vec![depth - 1],
            Self::Dpt => dpt_blocks(depth),
        }
    }

    /// A head with PyTorch's default initial values.
    pub fn build(self, parameters: &mut Parameters, shape: &HeadShape) -> Box<dyn Head> {
        match self {
            Self::Linear => Box::new(Linear::new(parameters, shape.features, shape.outputs)),
            Self::Dpt => Box::new(Dpt::new(parameters, shape.features, shape.outputs, shape.dpt)),
        }
    }

    /// Whether a parameter is made, as in the release, but never used and so never changed.
    pub fn is_unused(self, name: &str) -> bool {
        self == Self::Dpt && name.starts_with(dpt::UNUSED)
    }
}
