//! What the `config.json` of several families have in common.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::weights::{WeightFile, torch_name};

/// The release of `transformers` whose form of `config.json` is written.
pub(super) const TRANSFORMERS_VERSION: &str = "5.23.0";

/// A square's side, or its height and width.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Side {
    Square(usize),
    Sides([usize; 2]),
}

impl Side {
    /// The side of a square patch.
    ///
    /// # Errors
    /// Height and width differ.
    pub fn of_patch(&self) -> Result<usize> {
        match *self {
            Self::Square(side) => Ok(side),
            Self::Sides([height, width]) if height == width => Ok(height),
            Self::Sides(sides) => bail!("patch_size is {sides:?}, expected a square"),
        }
    }
}

/// What `transformers` calls an encoder's `depth` blocks, and what is before them.
pub(super) fn stage_names(depth: usize) -> Vec<String> {
    let stages = (1..=depth).map(|stage| format!("stage{stage}"));
    ["stem".to_string()].into_iter().chain(stages).collect()
}

/// The number format of the weights in `file`, as `transformers` calls it.
///
/// # Errors
/// Weights in it are not exported.
pub(super) fn dtype(file: &WeightFile) -> Result<&'static str> {
    let kind = file.kind("patch_embed.proj.weight").context("no patch projection")?;
    torch_name(kind).with_context(|| format!("{kind:?} is not exported"))
}

/// Keys that every model of `transformers` may have, and that change nothing of what an encoder computes.
const OF_ANY_MODEL: &[&str] = &[
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "license",
    "model_type",
    "out_features",
    "out_indices",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "problem_type",
    "return_dict",
    "stage_names",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

/// # Errors
/// `config` has keys that are neither `known` nor of any model: they may change what is computed.
pub(super) fn require_known_keys(config: &Value, known: &[&str]) -> Result<()> {
    let is_unknown = |key: &&String| {
        let key = key.as_str();
        !known.contains(&key) && !OF_ANY_MODEL.contains(&key)
    };
    let keys = config.as_object().into_iter().flat_map(|keys| keys.keys());
    let unknown: Vec<_> = keys.filter(is_unknown).map(|key| format!("`{key}`")).collect();
    ensure!(
        unknown.is_empty(),
        "{} not known here, and may change what the encoder computes",
        match &unknown[..] {
            [one] => format!("the key {one} is"),
            several => format!("the keys {} are", several.join(", ")),
        }
    );
    Ok(())
}
