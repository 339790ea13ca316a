//! DINOv3's `config.json` in Hugging Face folders.

use anyhow::{Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::spec::{NAME, PATCH_SIZE, ROPE_THETA, spec};
use super::vit::LAYER_NORM_EPS;
use crate::encoders::config_json::{
    Side, TRANSFORMERS_VERSION, dtype, require_known_keys, stage_names,
};
use crate::encoders::family::{EncoderSpec, StoredEncoder};
use crate::nn::Biases;
use crate::weights::WeightFile;

/// The keys that fix an encoder; what is left out has the default of `DINOv3ViTConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct Dinov3VitConfig {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    patch_size: Side,
    num_register_tokens: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    rope_theta: f64,
    query_bias: bool,
    key_bias: bool,
    value_bias: bool,
    proj_bias: bool,
    mlp_bias: bool,
    use_gated_mlp: bool,
    num_channels: usize,
}

impl Default for Dinov3VitConfig {
    fn default() -> Self {
        Self {
            hidden_size: 384,
            intermediate_size: 1536,
            num_hidden_layers: 12,
            num_attention_heads: 6,
            patch_size: Side::Square(PATCH_SIZE),
            num_register_tokens: 0,
            hidden_act: "gelu".into(),
            layer_norm_eps: LAYER_NORM_EPS,
            rope_theta: ROPE_THETA as f64,
            query_bias: true,
            key_bias: false,
            value_bias: true,
            proj_bias: true,
            mlp_bias: true,
            use_gated_mlp: false,
            num_channels: 3,
        }
    }
}

/// Keys that are read, or that change nothing of what an encoder gives when it is not trained by `transformers`:
/// positions are shifted and rescaled in training alone.
const KEYS: &[&str] = &[
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "num_register_tokens",
    "hidden_act",
    "layer_norm_eps",
    "rope_theta",
    "query_bias",
    "key_bias",
    "value_bias",
    "proj_bias",
    "mlp_bias",
    "use_gated_mlp",
    "num_channels",
    "image_size",
    "layerscale_value",
    "attention_dropout",
    "drop_path_rate",
    "pos_embed_shift",
    "pos_embed_jitter",
    "pos_embed_rescale",
    "apply_layernorm",
    "reshape_hidden_states",
    "return_class_token",
];

/// What gates, or follows, the first product of an MLP.
fn activation(gated: bool) -> &'static str {
    if gated { "silu" } else { "gelu" }
}

/// The encoder that a `config.json` describes.
///
/// # Errors
/// A key is of another kind or unknown, or the encoder is computed in another way.
pub(super) fn read_config(config: Value) -> Result<EncoderSpec> {
    require_known_keys(&config, KEYS)?;
    let config: Dinov3VitConfig = serde_path_to_error::deserialize(config)?;
    let (act, gated) = (&config.hidden_act, config.use_gated_mlp);
    let expected = activation(gated);
    ensure!(
        act == expected,
        "hidden_act is `{act}`, expected `{expected}` where use_gated_mlp is {gated}"
    );
    ensure!(config.num_channels == 3, "num_channels is {}, expected 3", config.num_channels);
    ensure!(
        config.layer_norm_eps == LAYER_NORM_EPS,
        "layer_norm_eps is {:e}, expected {LAYER_NORM_EPS:e}",
        config.layer_norm_eps
    );
    let theta = config.rope_theta;
    ensure!(
        theta >= 1.0 && theta.fract() == 0.0 && theta < 1e15,
        "rope_theta is {theta}, expected a whole number, at least 1"
    );
    let (dim, hidden) = (config.hidden_size, config.intermediate_size);
    ensure!(
        dim > 0 && hidden.is_multiple_of(dim),
        "intermediate_size is {hidden}, expected a multiple of hidden_size, {dim}"
    );
    Ok(EncoderSpec {
        patch_size: config.patch_size.of_patch()?,
        registers: config.num_register_tokens,
        mlp_ratio: hidden / dim,
        gated,
        biases: Biases {
            query: config.query_bias,
            key: config.key_bias,
            value: config.value_bias,
            proj: config.proj_bias,
            mlp: config.mlp_bias,
        },
        rope_theta: theta as usize,
        ..spec(dim, config.num_hidden_layers, config.num_attention_heads)
    })
}

/// What `transformers` writes to `config.json` for a `DINOv3ViTModel` of these numbers.
pub(super) fn write_config(encoder: &StoredEncoder, file: &WeightFile) -> Result<Value> {
    let spec = &encoder.spec;
    let stages = stage_names(spec.depth);
    Ok(json!({
        "apply_layernorm": true,
        "architectures": ["DINOv3ViTModel"],
        "attention_dropout": 0.0,
        "drop_path_rate": 0.0,
        "dtype": dtype(file)?,
        "hidden_act": activation(spec.gated),
        "hidden_size": spec.dim,
        "image_size": encoder.image_size,
        "initializer_range": 0.02,
        "intermediate_size": spec.dim * spec.mlp_ratio,
        "key_bias": spec.biases.key,
        "layer_norm_eps": LAYER_NORM_EPS,
        "layerscale_value": 1.0,
        "mlp_bias": spec.biases.mlp,
        "model_type": NAME,
        "num_attention_heads": spec.heads,
        "num_channels": 3,
        "num_hidden_layers": spec.depth,
        "num_register_tokens": spec.registers,
        "out_features": [stages[spec.depth]],
        "out_indices": [spec.depth],
        "patch_size": spec.patch_size,
        "pos_embed_jitter": null,
        "pos_embed_rescale": 2.0,
        "pos_embed_shift": null,
        "proj_bias": spec.biases.proj,
        "query_bias": spec.biases.query,
        "reshape_hidden_states": true,
        "rope_theta": spec.rope_theta as f64,
        "stage_names": stages,
        "transformers_version": TRANSFORMERS_VERSION,
        "use_gated_mlp": spec.gated,
        "value_bias": spec.biases.value,
    }))
}
