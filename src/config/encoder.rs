//! An encoder that is trained: its size, what it starts from, how much it sees.

use serde::{Deserialize, Serialize};

use super::EncoderSize;

/// One encoder to be trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// Its name in metrics, checkpoints and exports.
    pub name: String,
    pub model: EncoderSize,
    /// `random`, or weights to start from (same forms as the teacher's).
    #[serde(default = "random_weights")]
    pub weights: String,
    /// Share of mask cells that this encoder does not see, in `[0, 1)`.
    #[serde(default)]
    pub mask_ratio: f64,
    /// Side of a mask cell, in patches.
    #[serde(default = "four")]
    pub mask_grid: usize,
    /// Drop path probability of the last block; it rises linearly from 0 at the first.
    #[serde(default)]
    pub drop_path: f64,
    #[serde(default)]
    pub drop_path_mode: DropPathMode,
    /// How many of the first blocks keep only their inputs, and are computed again in the backward
    /// pass.
    #[serde(default)]
    pub recompute_blocks: usize,
}

/// How drop path leaves out a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DropPathMode {
    /// Each image is drawn by itself; the branch is computed for all and multiplied by 0 or
    /// 1 / (1 − p).
    #[default]
    Scale,
    /// A fixed share of each batch keeps the branch, and it is computed for these images only.
    Skip,
}

impl EncoderConfig {
    /// Weights that are drawn instead of loaded.
    pub const RANDOM: &str = "random";

    /// An encoder of random weights that sees every patch.
    pub fn minimal(name: &str, model: EncoderSize) -> Self {
        Self {
            name: name.to_string(),
            model,
            weights: random_weights(),
            mask_ratio: 0.0,
            mask_grid: four(),
            drop_path: 0.0,
            drop_path_mode: DropPathMode::Scale,
            recompute_blocks: 0,
        }
    }
}

fn random_weights() -> String {
    EncoderConfig::RANDOM.into()
}
fn four() -> usize {
    4
}
