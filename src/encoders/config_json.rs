//! What the `config.json` of several families have in common.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

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

/// Keys that `transformers` 4 wrote of any model, most of which are about texts that are made.
const OF_ANY_OLD_MODEL: &[&str] = &[
    "add_cross_attention",
    "bad_words_ids",
    "begin_suppress_tokens",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "prefix",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "typical_p",
    "use_bfloat16",
];

/// Of old models which heads have been taken out: none, if they are to be read.
const PRUNED: &str = "pruned_heads";

/// # Errors
/// `config` has keys that are neither `known` nor of any model: they may change what is computed.
pub(super) fn require_known_keys(config: &Value, known: &[&str]) -> Result<()> {
    let is_pruned = config.get(PRUNED).is_some_and(|heads| *heads != json!({}));
    let is_unknown = |key: &&String| match key.as_str() {
        PRUNED => is_pruned,
        key => ![known, OF_ANY_MODEL, OF_ANY_OLD_MODEL].iter().any(|keys| keys.contains(&key)),
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
