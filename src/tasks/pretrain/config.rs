//! Masked-autoencoder pre-training: an encoder and the decoder that it is trained with.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::config::{Check, KeyError, TrainConfig, read_tables, require};
use crate::encoders::EncoderSpec;
use crate::nn::DecoderShape;
use crate::tasks::revision::{former_tables, pin_weights};
use crate::tasks::trainee::TraineeConfig;

/// A run of pre-training.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PretrainConfig {
    #[serde(flatten)]
    pub train: TrainConfig,
    pub encoder: TraineeConfig,
    pub decoder: DecoderConfig,
    pub reconstructions: ReconstructionConfig,
}

/// What a configuration of pre-training has beside every training's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    encoder: TraineeConfig,
    #[serde(default)]
    decoder: DecoderConfig,
    #[serde(default)]
    reconstructions: ReconstructionConfig,
}

/// What predicts the pixels of masked patches. Patch size and class tokens are the encoder's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecoderConfig {
    /// Width of every token.
    pub dim: usize,
    /// Number of transformer blocks.
    pub depth: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// Width of the MLP's hidden layer over `dim`.
    pub mlp_ratio: usize,
}

/// The published decoder.
impl Default for DecoderConfig {
    fn default() -> Self {
        Self { dim: 512, depth: 32, heads: 16, mlp_ratio: 4 }
    }
}

impl DecoderConfig {
    /// The decoder's numbers beside this encoder.
    pub fn shape(&self, encoder: &EncoderSpec) -> DecoderShape {
        let Self { dim, depth, heads, mlp_ratio } = *self;
        let (patch_size, prefix_tokens) = (encoder.patch_size, encoder.prefix_tokens());
        DecoderShape { dim, depth, heads, mlp_ratio, patch_size, prefix_tokens }
    }
}

/// Images of how well masked patches are predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReconstructionConfig {
    /// Steps between them; 0 draws none.
    pub every: u64,
    /// Samples in each.
    pub samples: u64,
}

impl Default for ReconstructionConfig {
    fn default() -> Self {
        Self { every: 1000, samples: 8 }
    }
}

impl PretrainConfig {
    /// A configuration of random weights with every default; tests and benchmarks fill in the rest.
    pub fn minimal(dir: impl Into<PathBuf>, encoder: EncoderSpec) -> Self {
        let encoder =
            TraineeConfig { mask_ratio: MASK_RATIO, ..TraineeConfig::minimal(NAME, encoder) };
        Self {
            train: TrainConfig::minimal(dir),
            encoder,
            decoder: DecoderConfig::default(),
            reconstructions: ReconstructionConfig::default(),
        }
    }
}

/// What the encoder is called unless the configuration says otherwise.
const NAME: &str = "encoder";

/// Share of mask cells that the encoder does not see, unless the configuration says otherwise.
const MASK_RATIO: f64 = 0.75;

/// The configuration whose own tables are these.
///
/// # Errors
/// A key is unknown, missing or of the wrong type.
pub(super) fn read(mut own: Table, train: TrainConfig) -> Result<PretrainConfig, KeyError> {
    // A pre-trained encoder has the keys of a student, two of them with other defaults.
    if let Some(Value::Table(encoder)) = own.get_mut("encoder") {
        encoder.entry("name").or_insert(NAME.into());
        encoder.entry("mask_ratio").or_insert(MASK_RATIO.into());
        pin_weights("encoder", encoder, former_tables(&train.run.dir).get("encoder"))?;
    }
    let Tables { encoder, decoder, reconstructions } = read_tables(own)?;
    Ok(PretrainConfig { train, encoder, decoder, reconstructions })
}

impl PretrainConfig {
    /// The first contradiction in the tables of pre-training.
    pub(super) fn check(&self) -> Check {
        let Self { train, encoder, decoder, reconstructions } = self;
        encoder.check("encoder", &train.data)?;
        encoder.check_precision("encoder", train.run.precision)?;
        require(encoder.loss.is_empty(), "encoder.loss", || {
            "found a table, expected none: masked autoencoders have one loss".into()
        })?;
        require(encoder.mask_ratio > 0.0, "encoder.mask_ratio", || {
            "found 0, expected a share above it: masked patches are what is learned from".into()
        })?;
        let DecoderConfig { dim, depth, heads, mlp_ratio } = *decoder;
        for (name, value) in
            [("dim", dim), ("depth", depth), ("heads", heads), ("mlp_ratio", mlp_ratio)]
        {
            require(value > 0, format!("decoder.{name}"), || {
                "found 0, expected at least 1".into()
            })?;
        }
        require(dim.is_multiple_of(heads), "decoder.heads", || {
            format!("found {heads}, expected a divisor of the width {dim}")
        })?;
        let samples = reconstructions.samples;
        require((1..=64).contains(&samples), "reconstructions.samples", || {
            format!("found {samples}, expected 1 to 64")
        })
    }
}
