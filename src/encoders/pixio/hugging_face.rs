//! Pixio's `config.json` in Hugging Face folders.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::spec::{CLASS_TOKENS, MLP_RATIO, NAME, PATCH_SIZE, Pixio};
use super::vit::LAYER_NORM_EPS;
use crate::encoders::family::{EncoderSpec, StoredEncoder};
use crate::weights::{WeightFile, torch_name};

/// The release of `transformers` whose form of `config.json` is written.
const TRANSFORMERS_VERSION: &str = "5.23.0";

/// The keys that fix an encoder; what is left out has the default of `PixioConfig`.
#[derive(Deserialize)]
struct PixioConfig {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    #[serde(default = "patch_size")]
    patch_size: Side,
    #[serde(default = "class_tokens")]
    n_cls_tokens: usize,
    #[serde(default = "mlp_ratio")]
    mlp_ratio: usize,
    #[serde(default = "hidden_act")]
    hidden_act: String,
    #[serde(default = "layer_norm_eps")]
    layer_norm_eps: f64,
    #[serde(default = "yes")]
    qkv_bias: bool,
}

/// A square's side, or its height and width.
#[derive(Deserialize)]
#[serde(untagged)]
enum Side {
    Square(usize),
    Sides([usize; 2]),
}

fn patch_size() -> Side {
    Side::Square(PATCH_SIZE)
}
fn class_tokens() -> usize {
    CLASS_TOKENS
}
fn mlp_ratio() -> usize {
    MLP_RATIO
}
fn hidden_act() -> String {
    "gelu".into()
}
fn layer_norm_eps() -> f64 {
    LAYER_NORM_EPS
}
fn yes() -> bool {
    true
}

/// The encoder that a `config.json` describes.
///
/// # Errors
/// A key is missing, or the encoder is computed in another way than Pixio's.
pub(super) fn read_config(config: Value) -> Result<EncoderSpec> {
    spec_of(&serde_path_to_error::deserialize(config)?)
}

fn spec_of(config: &PixioConfig) -> Result<EncoderSpec> {
    ensure!(config.hidden_act == "gelu", "hidden_act is `{}`, expected `gelu`", config.hidden_act);
    ensure!(config.qkv_bias, "qkv_bias is false, expected true");
    ensure!(
        config.layer_norm_eps == LAYER_NORM_EPS,
        "layer_norm_eps is {:e}, expected {LAYER_NORM_EPS:e}",
        config.layer_norm_eps
    );
    let patch_size = match config.patch_size {
        Side::Square(side) => side,
        Side::Sides([height, width]) if height == width => height,
        Side::Sides(sides) => bail!("patch_size is {sides:?}, expected a square"),
    };
    Ok(EncoderSpec {
        family: &Pixio,
        dim: config.hidden_size,
        depth: config.num_hidden_layers,
        heads: config.num_attention_heads,
        patch_size,
        class_tokens: config.n_cls_tokens,
        registers: 0,
        mlp_ratio: config.mlp_ratio,
        gated: false,
    })
}

/// What `transformers` writes to `config.json` for a `PixioModel` of these numbers.
pub(super) fn write_config(encoder: &StoredEncoder, file: &WeightFile) -> Result<Value> {
    let kind = file.kind("patch_embed.proj.weight").context("no patch projection")?;
    let spec = &encoder.spec;
    let last_stage = format!("stage{}", spec.depth);
    let mut stages = vec!["stem".to_string()];
    stages.extend((1..=spec.depth).map(|stage| format!("stage{stage}")));
    let dtype = torch_name(kind).with_context(|| format!("{kind:?} is not exported"))?;
    Ok(json!({
        "apply_layernorm": true,
        "architectures": ["PixioModel"],
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "dtype": dtype,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": spec.dim,
        "image_size": encoder.image_size,
        "initializer_range": 0.02,
        "layer_norm_eps": LAYER_NORM_EPS,
        "mlp_ratio": spec.mlp_ratio,
        "model_type": NAME,
        "n_cls_tokens": spec.class_tokens,
        "num_attention_heads": spec.heads,
        "num_channels": 3,
        "num_hidden_layers": spec.depth,
        "out_features": [last_stage],
        "out_indices": [spec.depth],
        "patch_size": spec.patch_size,
        "qkv_bias": true,
        "reshape_hidden_states": true,
        "stage_names": stages,
        "transformers_version": TRANSFORMERS_VERSION,
    }))
}
