//! Pixio's `config.json` in Hugging Face folders.

use anyhow::{Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::spec::{CLASS_TOKENS, MLP_RATIO, NAME, PATCH_SIZE, spec};
use super::vit::LAYER_NORM_EPS;
use crate::encoders::config_json::{Side, TRANSFORMERS_VERSION, dtype, stage_names};
use crate::encoders::family::{EncoderSpec, StoredEncoder};
use crate::weights::WeightFile;

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
    let (dim, depth) = (config.hidden_size, config.num_hidden_layers);
    Ok(EncoderSpec {
        patch_size: config.patch_size.of_patch()?,
        class_tokens: config.n_cls_tokens,
        mlp_ratio: config.mlp_ratio,
        ..spec(dim, depth, config.num_attention_heads)
    })
}

/// What `transformers` writes to `config.json` for a `PixioModel` of these numbers.
pub(super) fn write_config(encoder: &StoredEncoder, file: &WeightFile) -> Result<Value> {
    let spec = &encoder.spec;
    let stages = stage_names(spec.depth);
    Ok(json!({
        "apply_layernorm": true,
        "architectures": ["PixioModel"],
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "dtype": dtype(file)?,
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
        "out_features": [stages[spec.depth]],
        "out_indices": [spec.depth],
        "patch_size": spec.patch_size,
        "qkv_bias": true,
        "reshape_hidden_states": true,
        "stage_names": stages,
        "transformers_version": TRANSFORMERS_VERSION,
    }))
}
