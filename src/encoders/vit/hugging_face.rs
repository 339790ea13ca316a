//! `config.json` of plain vision transformers in Hugging Face folders.

use anyhow::{Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::model::LAYER_NORM_EPS;
use super::spec::{Kind, PATCH_SIZE, Vit};
use crate::encoders::config_json::{Side, TRANSFORMERS_VERSION, dtype, require_known_keys};
use crate::encoders::family::{EncoderSpec, StoredEncoder};
use crate::nn::Biases;
use crate::weights::WeightFile;

/// The keys that fix an encoder; what is left out has the default of `ViTConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct VitConfig {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    patch_size: Side,
    hidden_act: String,
    layer_norm_eps: f64,
    qkv_bias: bool,
    num_channels: usize,
}

impl Default for VitConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            patch_size: Side::Square(PATCH_SIZE),
            hidden_act: "gelu".into(),
            layer_norm_eps: LAYER_NORM_EPS,
            qkv_bias: true,
            num_channels: 3,
        }
    }
}

/// Keys that are read, or that change nothing of an encoder's tokens when it is not trained by `transformers`.
const KEYS: &[&str] = &[
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "qkv_bias",
    "num_channels",
    "image_size",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "encoder_stride",
    "pooler_output_size",
    "pooler_act",
];

/// Those of a masked autoencoder besides: its decoder, and how it is trained.
const KEYS_OF_AUTOENCODER: &[&str] = &[
    "decoder_hidden_size",
    "decoder_intermediate_size",
    "decoder_num_attention_heads",
    "decoder_num_hidden_layers",
    "mask_ratio",
    "norm_pix_loss",
];

impl Vit {
    /// The encoder that a `config.json` describes.
    ///
    /// # Errors
    /// A key is of another kind or unknown, or the encoder is computed in another way.
    pub(super) fn spec_of_config(&self, config: Value) -> Result<EncoderSpec> {
        let is_autoencoders = self.kind == Kind::OfAutoencoder;
        let of_autoencoder = if is_autoencoders { KEYS_OF_AUTOENCODER } else { &[] };
        require_known_keys(&config, &[KEYS, of_autoencoder].concat())?;
        let config: VitConfig = serde_path_to_error::deserialize(config)?;
        let act = &config.hidden_act;
        ensure!(act == "gelu", "hidden_act is `{act}`, expected `gelu`");
        ensure!(config.num_channels == 3, "num_channels is {}, expected 3", config.num_channels);
        ensure!(
            config.layer_norm_eps == LAYER_NORM_EPS,
            "layer_norm_eps is {:e}, expected {LAYER_NORM_EPS:e}",
            config.layer_norm_eps
        );
        let (dim, hidden) = (config.hidden_size, config.intermediate_size);
        ensure!(
            dim > 0 && hidden.is_multiple_of(dim),
            "intermediate_size is {hidden}, expected a multiple of hidden_size, {dim}"
        );
        Ok(EncoderSpec {
            patch_size: config.patch_size.of_patch()?,
            mlp_ratio: hidden / dim,
            biases: if config.qkv_bias { Biases::ALL } else { Biases::WITHOUT_QKV },
            ..self.spec(dim, config.num_hidden_layers, config.num_attention_heads)
        })
    }

    /// What `transformers` writes to `config.json` for a model of these numbers.
    pub(super) fn config_of(&self, encoder: &StoredEncoder, file: &WeightFile) -> Result<Value> {
        let spec = &encoder.spec;
        let class = match self.kind {
            Kind::Plain => "ViTModel",
            Kind::OfAutoencoder => "ViTMAEModel",
            Kind::Distilled => "DeiTModel",
        };
        let mut config = json!({
            "architectures": [class],
            "attention_probs_dropout_prob": 0.0,
            "dtype": dtype(file)?,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "hidden_size": spec.dim,
            "image_size": encoder.image_size,
            "initializer_range": 0.02,
            "intermediate_size": spec.dim * spec.mlp_ratio,
            "layer_norm_eps": LAYER_NORM_EPS,
            "model_type": self.model_type_name(),
            "num_attention_heads": spec.heads,
            "num_channels": 3,
            "num_hidden_layers": spec.depth,
            "patch_size": spec.patch_size,
            "qkv_bias": spec.biases.query,
            "transformers_version": TRANSFORMERS_VERSION,
        });
        if self.kind == Kind::OfAutoencoder {
            // All patches are seen by whoever loads the encoder alone.
            config["mask_ratio"] = json!(0.0);
        }
        Ok(config)
    }

    /// The `model_type` of `config.json`, and the family's name.
    pub(super) fn model_type_name(&self) -> &'static str {
        match self.kind {
            Kind::Plain => "vit",
            Kind::OfAutoencoder => "vit_mae",
            Kind::Distilled => "deit",
        }
    }
}
