//! Which keys of a `config.json` change nothing.

use anyhow::{Result, ensure};
use serde_json::Value;

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
