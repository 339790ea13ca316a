//! The JSON files of a Hugging Face folder: `config.json` and `preprocessor_config.json`.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tch::Kind;

use super::header;
use super::stored_encoder::StoredEncoder;
use crate::config::EncoderSize;

/// The release of `transformers` whose form of `config.json` is written.
const TRANSFORMERS_VERSION: &str = "5.23.0";
/// What `AutoImageProcessor` reads.
pub(super) const PREPROCESSOR: &str = "preprocessor_config.json";
/// Pillow's number for bicubic resampling.
const BICUBIC: u8 = 3;
/// LayerNorm epsilon of every Pixio encoder.
const LAYER_NORM_EPS: f64 = 1e-6;

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
    Side::Square(16)
}
fn class_tokens() -> usize {
    8
}
fn mlp_ratio() -> usize {
    4
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

/// Reads the size of the encoder that `config.json` describes.
///
/// # Errors
/// The file is damaged, or describes an encoder that is computed in another way than Pixio's.
pub(super) fn read_config(path: &Path) -> Result<EncoderSize> {
    let context = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(context)?;
    let value: Value = serde_json::from_str(&text).with_context(context)?;
    let model_type = value.get("model_type").and_then(Value::as_str).unwrap_or("nothing");
    ensure!(
        model_type == "pixio",
        "{}: model_type is `{model_type}`, expected `pixio`",
        path.display()
    );
    let config: PixioConfig = serde_path_to_error::deserialize(value).with_context(context)?;
    size_of(&config).with_context(context)
}

fn size_of(config: &PixioConfig) -> Result<EncoderSize> {
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
    Ok(EncoderSize {
        dim: config.hidden_size,
        depth: config.num_hidden_layers,
        heads: config.num_attention_heads,
        patch_size,
        class_tokens: config.n_cls_tokens,
        mlp_ratio: config.mlp_ratio,
    })
}

/// What `transformers` writes to `config.json` for a `PixioModel` of this size.
pub(super) fn model_config(encoder: &StoredEncoder, kind: Kind) -> Result<Value> {
    let size = &encoder.size;
    let last_stage = format!("stage{}", size.depth);
    let mut stages = vec!["stem".to_string()];
    stages.extend((1..=size.depth).map(|stage| format!("stage{stage}")));
    let dtype = header::torch_name(kind).with_context(|| format!("{kind:?} is not exported"))?;
    Ok(json!({
        "apply_layernorm": true,
        "architectures": ["PixioModel"],
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "dtype": dtype,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": size.dim,
        "image_size": encoder.image_size,
        "initializer_range": 0.02,
        "layer_norm_eps": LAYER_NORM_EPS,
        "mlp_ratio": size.mlp_ratio,
        "model_type": "pixio",
        "n_cls_tokens": size.class_tokens,
        "num_attention_heads": size.heads,
        "num_channels": 3,
        "num_hidden_layers": size.depth,
        "out_features": [last_stage],
        "out_indices": [size.depth],
        "patch_size": size.patch_size,
        "qkv_bias": true,
        "reshape_hidden_states": true,
        "stage_names": stages,
        "transformers_version": TRANSFORMERS_VERSION,
    }))
}

/// How images become the encoder's input.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Preprocessing {
    /// Per channel mean of pixels in `[0, 1]`, subtracted.
    #[serde(rename = "image_mean")]
    pub mean: [f64; 3],
    /// Per channel standard deviation of pixels in `[0, 1]`, divided by.
    #[serde(rename = "image_std")]
    pub std: [f64; 3],
}

impl Preprocessing {
    /// Mean and deviation of ImageNet, which the published encoders use.
    pub const IMAGENET: Self = Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

    /// Reads `preprocessor_config.json`.
    ///
    /// # Errors
    /// The file is damaged or does not normalise.
    pub fn read(path: &Path) -> Result<Self> {
        let context = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(context)?;
        serde_json::from_str(&text).with_context(context)
    }

    /// What `preprocessor_config.json` beside the weights at `path` (a folder or a file) says; where
    /// there is none, ImageNet's.
    ///
    /// # Errors
    /// [`Self::read`]'s.
    pub fn beside(path: &Path) -> Result<Self> {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
        let file = folder.join(PREPROCESSOR);
        if file.is_file() { Self::read(&file) } else { Ok(Self::IMAGENET) }
    }

    /// What `AutoImageProcessor` reads: the short side is resized bicubically to `image_size`,
    /// the middle cut out, and the pixels normalised. `BitImageProcessor` is the class that
    /// `transformers` assigns to Pixio.
    pub(super) fn to_json(self, image_size: usize) -> Value {
        json!({
            "crop_size": { "height": image_size, "width": image_size },
            "do_center_crop": true,
            "do_convert_rgb": true,
            "do_normalize": true,
            "do_rescale": true,
            "do_resize": true,
            "image_mean": self.mean,
            "image_processor_type": "BitImageProcessor",
            "image_std": self.std,
            "resample": BICUBIC,
            "rescale_factor": 1.0 / 255.0,
            "size": { "shortest_edge": image_size },
        })
    }
}
