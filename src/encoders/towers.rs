//! What the image towers of models of images and texts have in common: positions that are a table, blocks with any
//! activation and any hidden width, and a `config.json` that may be a part of a larger model's.

use anyhow::{Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tch::Tensor;

use super::checks::{require_all_biases, require_plain, require_positive_numbers};
use super::config_json::{Side, TRANSFORMERS_VERSION, dtype, require_known_keys};
use super::family::{EncoderSpec, StoredEncoder};
use super::measuring::{grid_size, shape};
use super::name_table::{Fused, Module, WEIGHT_AND_BIAS};
use crate::nn::{Activation, BlockShape, block_flops, patch_flops, resize_positions};
use crate::weights::WeightFile;

/// The modules of a block.
pub(super) const MODULES: &[Module] = &[
    Module::plain("norm1", &["layer_norm1"]),
    Module::plain("norm2", &["layer_norm2"]),
    Module::plain("attn.proj", &["self_attn.out_proj"]),
    Module::plain("mlp.fc1", &["mlp.fc1"]),
    Module::plain("mlp.fc2", &["mlp.fc2"]),
];

/// Queries, keys and values of a block.
pub(super) const QKV: Fused = Fused {
    own: "attn.qkv",
    theirs: &[&["self_attn.q_proj"], &["self_attn.k_proj"], &["self_attn.v_proj"]],
    kinds: WEIGHT_AND_BIAS,
};

/// Whether a tensor of this name stands beside a tower in checkpoints: a student's projector, a product behind the
/// pooled vector, the tower of texts and what compares the two, a classifier, numbers of positions.
pub(super) fn is_beside(name: &str) -> bool {
    ["last_proj.", "visual_projection.", "text_projection.", "text_model.", "classifier."]
        .iter()
        .chain(&["logit_scale", "logit_bias", "embeddings.position_ids"])
        .any(|prefix| name.starts_with(prefix))
}

/// A tower as one of the families: what sets it apart from the other.
pub(super) struct Tower {
    /// The `model_type` of the larger model.
    pub whole: &'static str,
    /// The `model_type` of the tower itself.
    pub alone: &'static str,
    /// Its class in `transformers`.
    pub class: &'static str,
    pub class_tokens: usize,
    /// Epsilon of every LayerNorm.
    pub eps: f64,
    /// Keys of its `config.json` that others lack; they change nothing, or are read by the family.
    pub keys: &'static [&'static str],
}

/// The keys that fix a tower; what is left out has the default of its class.
#[derive(Deserialize)]
struct TowerConfig {
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_channels: Option<usize>,
    patch_size: Option<Side>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f64>,
}

/// Keys that are read, or that change nothing of a tower that is not trained by `transformers`.
const KEYS: &[&str] = &[
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "image_size",
    "attention_dropout",
    "dropout",
    "initializer_factor",
    "projection_dim",
    "projection_size",
];

/// Keys of the larger model; what is in them is about texts and their comparison with images.
const KEYS_OF_WHOLE: &[&str] = &[
    "initializer_factor",
    "logit_scale_init_value",
    "projection_dim",
    "text_config",
    "text_config_dict",
    "vision_config",
    "vision_config_dict",
];

impl Tower {
    /// # Errors
    /// There is no such tower: the key at fault, with what was found and what was expected.
    pub fn check(&self, spec: &EncoderSpec) -> Result<(), (&'static str, String)> {
        require_positive_numbers(spec)?;
        require_all_biases(spec)?;
        require_plain(spec, self.class_tokens)
    }

    /// The numbers of its blocks.
    pub fn block(&self, spec: &EncoderSpec) -> BlockShape {
        BlockShape {
            hidden: spec.hidden(),
            activation: spec.activation,
            ..BlockShape::new(spec.dim, spec.heads, self.eps)
        }
    }

    /// Operations of its tokens: what pools them is left out.
    pub fn flops(&self, spec: &EncoderSpec, patches: usize) -> f64 {
        let tokens = self.class_tokens + patches;
        block_flops((spec.dim, spec.depth), (spec.hidden(), false), tokens)
            + patch_flops(spec.dim, spec.patch_size, patches)
    }

    /// The parameter `name` for `grid_size` × `grid_size` patches.
    pub fn resized(&self, name: &str, parameter: &Tensor, grid_size: usize) -> Tensor {
        let (side, class_tokens) = (grid_size as i64, self.class_tokens as i64);
        match name {
            "pos_embed" => {
                resize_positions(&parameter.unsqueeze(0), class_tokens, side, side).squeeze_dim(0)
            }
            _ => parameter.shallow_clone(),
        }
    }

    /// The numbers of the tower in `file`, those that no shape tells from `defaults`; heads are left 0.
    ///
    /// # Errors
    /// A tensor is missing, or is of no such tower.
    pub fn measure(&self, file: &WeightFile, defaults: EncoderSpec) -> Result<StoredEncoder> {
        let [dim, 3, patch_size, _] = shape(file, "patch_embed.proj.weight")?[..] else {
            bail!("patch_embed.proj.weight is not [width, 3, patch, patch]")
        };
        let hidden = shape(file, "blocks.0.mlp.fc1.weight")?.first().copied().unwrap_or(0);
        ensure!(dim > 0 && hidden > 0, "the MLP has no hidden layer");
        let is_there =
            |block: &usize| file.shape(&format!("blocks.{block}.norm1.weight")).is_some();
        let depth = (0..).take_while(is_there).count();
        let spec = EncoderSpec { dim, depth, heads: 0, patch_size, ..defaults }.with_hidden(hidden);
        let image_size = grid_size(file, self.class_tokens)? * patch_size;
        Ok(StoredEncoder { spec, image_size })
    }

    /// The tower that a `config.json` describes, of its own or of the larger model; `defaults` are those of its class.
    /// Also gives the part that is about it.
    ///
    /// # Errors
    /// A key is of another kind or unknown, or the tower is computed in another way.
    pub fn read(&self, config: Value, defaults: EncoderSpec) -> Result<(EncoderSpec, Value)> {
        let own = match config["model_type"] == self.whole {
            true => self.within(&config)?,
            false => config,
        };
        require_known_keys(&own, &[KEYS, self.keys].concat())?;
        let config: TowerConfig = serde_path_to_error::deserialize(&own)?;
        let channels = config.num_channels.unwrap_or(3);
        ensure!(channels == 3, "num_channels is {channels}, expected 3");
        let eps = config.layer_norm_eps.unwrap_or(self.eps);
        ensure!(eps == self.eps, "layer_norm_eps is {eps:e}, expected {:e}", self.eps);
        let activation = match &config.hidden_act {
            None => defaults.activation,
            Some(name) => activation_named(name)?,
        };
        let dim = config.hidden_size.unwrap_or(defaults.dim);
        let hidden = config.intermediate_size.unwrap_or(defaults.hidden());
        ensure!(dim > 0 && hidden > 0, "hidden_size and intermediate_size are {dim} and {hidden}");
        let patch_size = config.patch_size.map(|side| side.of_patch()).transpose()?;
        let spec = EncoderSpec {
            dim,
            depth: config.num_hidden_layers.unwrap_or(defaults.depth),
            heads: config.num_attention_heads.unwrap_or(defaults.heads),
            patch_size: patch_size.unwrap_or(defaults.patch_size),
            activation,
            ..defaults
        };
        Ok((spec.with_hidden(hidden), own))
    }

    /// The tower's part of a larger model's `config.json`.
    fn within(&self, config: &Value) -> Result<Value> {
        require_known_keys(config, KEYS_OF_WHOLE)?;
        let part = |key: &str| config.get(key).filter(|part| !part.is_null());
        let own = part("vision_config").cloned().unwrap_or_else(|| json!({}));
        let model_type = own.get("model_type").and_then(Value::as_str).unwrap_or(self.alone);
        ensure!(
            model_type == self.alone,
            "vision_config is of model_type `{model_type}`, expected `{}`",
            self.alone
        );
        // An older form of the same, which `transformers` prefers.
        let older = part("vision_config_dict").and_then(Value::as_object);
        for (key, value) in older.into_iter().flatten() {
            let newer = own.get(key).unwrap_or(value);
            let is_read = KEYS.contains(&key.as_str()) || self.keys.contains(&key.as_str());
            ensure!(
                newer == value || !is_read,
                "vision_config_dict says {key} {value}, vision_config {newer}"
            );
        }
        Ok(own)
    }

    /// What `transformers` writes to `config.json` for a tower of these numbers.
    ///
    /// # Errors
    /// Weights in their number format are not exported.
    pub fn config_of(&self, encoder: &StoredEncoder, file: &WeightFile) -> Result<Value> {
        let spec = &encoder.spec;
        Ok(json!({
            "architectures": [self.class],
            "attention_dropout": 0.0,
            "dtype": dtype(file)?,
            "hidden_act": spec.activation.name(),
            "hidden_size": spec.dim,
            "image_size": encoder.image_size,
            "intermediate_size": spec.hidden(),
            "layer_norm_eps": self.eps,
            "model_type": self.alone,
            "num_attention_heads": spec.heads,
            "num_channels": 3,
            "num_hidden_layers": spec.depth,
            "patch_size": spec.patch_size,
            "transformers_version": TRANSFORMERS_VERSION,
        }))
    }
}

/// # Errors
/// There is none of this name.
fn activation_named(name: &str) -> Result<Activation> {
    let Some(activation) = Activation::named(name) else {
        let known = Activation::ALL.map(|known| format!("`{}`", known.name())).join(", ");
        bail!("hidden_act is `{name}`, expected one of {known}")
    };
    Ok(activation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_beside_a_tower_is_known() {
        for name in ["visual_projection.weight", "embeddings.position_ids", "logit_scale"] {
            assert!(is_beside(name), "{name}");
        }
        assert!(!is_beside("embeddings.position_embedding.weight") && !is_beside("head.probe"));
    }
}
