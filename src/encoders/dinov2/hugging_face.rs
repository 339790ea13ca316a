//! DINOv2's `config.json` in Hugging Face folders.

use anyhow::{Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::spec::{Dinov2, MLP_RATIO, PATCH_SIZE, REGISTERS};
use super::vit::LAYER_NORM_EPS;
use crate::encoders::config_json::{
    Side, TRANSFORMERS_VERSION, dtype, require_known_keys, stage_names,
};
use crate::encoders::family::{EncoderSpec, StoredEncoder};
use crate::weights::WeightFile;

/// The keys that fix an encoder; what is left out has the default of `Dinov2Config`.
#[derive(Deserialize)]
#[serde(default)]
struct Dinov2Config {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    patch_size: Side,
    num_register_tokens: usize,
    mlp_ratio: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    qkv_bias: bool,
    use_swiglu_ffn: bool,
    num_channels: usize,
}

impl Default for Dinov2Config {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            patch_size: Side::Square(PATCH_SIZE),
            num_register_tokens: REGISTERS,
            mlp_ratio: MLP_RATIO,
            hidden_act: "gelu".into(),
            layer_norm_eps: LAYER_NORM_EPS,
            qkv_bias: true,
            use_swiglu_ffn: false,
            num_channels: 3,
        }
    }
}

/// Keys that are read, or that change nothing of what an encoder gives when it is not trained by `transformers`.
const KEYS: &[&str] = &[
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "num_register_tokens",
    "mlp_ratio",
    "hidden_act",
    "layer_norm_eps",
    "qkv_bias",
    "use_swiglu_ffn",
    "num_channels",
    "image_size",
    "layerscale_value",
    "use_mask_token",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "drop_path_rate",
    "apply_layernorm",
    "reshape_hidden_states",
    "interpolate_antialias",
    "interpolate_offset",
];

impl Dinov2 {
    /// The encoder that a `config.json` describes.
    ///
    /// # Errors
    /// A key is of another kind or unknown, or the encoder is computed in another way.
    pub(super) fn spec_of_config(&self, config: Value) -> Result<EncoderSpec> {
        require_known_keys(&config, KEYS)?;
        let config: Dinov2Config = serde_path_to_error::deserialize(config)?;
        let act = &config.hidden_act;
        ensure!(config.use_swiglu_ffn || act == "gelu", "hidden_act is `{act}`, expected `gelu`");
        ensure!(config.qkv_bias, "qkv_bias is false, expected true");
        ensure!(config.num_channels == 3, "num_channels is {}, expected 3", config.num_channels);
        ensure!(
            config.layer_norm_eps == LAYER_NORM_EPS,
            "layer_norm_eps is {:e}, expected {LAYER_NORM_EPS:e}",
            config.layer_norm_eps
        );
        let (dim, depth) = (config.hidden_size, config.num_hidden_layers);
        Ok(EncoderSpec {
            patch_size: config.patch_size.of_patch()?,
            registers: if self.has_registers { config.num_register_tokens } else { 0 },
            mlp_ratio: config.mlp_ratio,
            gated: config.use_swiglu_ffn,
            ..self.spec(dim, depth, config.num_attention_heads)
        })
    }

    /// What `transformers` writes to `config.json` for a model of these numbers.
    pub(super) fn config_of(&self, encoder: &StoredEncoder, file: &WeightFile) -> Result<Value> {
        let spec = &encoder.spec;
        let stages = stage_names(spec.depth);
        let class = if self.has_registers { "Dinov2WithRegistersModel" } else { "Dinov2Model" };
        let mut config = json!({
            "apply_layernorm": true,
            "architectures": [class],
            "attention_probs_dropout_prob": 0.0,
            "drop_path_rate": 0.0,
            "dtype": dtype(file)?,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "hidden_size": spec.dim,
            "image_size": encoder.image_size,
            "initializer_range": 0.02,
            "layer_norm_eps": LAYER_NORM_EPS,
            "layerscale_value": 1.0,
            "mlp_ratio": spec.mlp_ratio,
            "model_type": self.model_type_name(),
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
            "use_swiglu_ffn": spec.gated,
        });
        // The token of what is masked in pre-training is not part of the encoder.
        let own = match self.has_registers {
            true => ("num_register_tokens", json!(spec.registers)),
            false => ("use_mask_token", json!(false)),
        };
        config[own.0] = own.1;
        Ok(config)
    }

    /// The `model_type` of `config.json`, and the family's name.
    pub(super) fn model_type_name(&self) -> &'static str {
        if self.has_registers { "dinov2_with_registers" } else { "dinov2" }
    }
}
