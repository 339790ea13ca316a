//! The two layouts of Pixio's tensor names, and the way from one to the other.
//!
//! Inside the program every parameter goes by its original name. The Hugging Face names are those of
//! the published `model.safetensors` files; the names that `transformers` 5.23 gives the same
//! parameters in memory are understood too.

use std::collections::{BTreeMap, BTreeSet};

use crate::weights::{NameMap, Place};

/// `encoder.layer.0.attention.attention.query.weight`, ...: query, key and value apart.
pub(super) struct HuggingFaceNames;

/// `blocks.0.attn.qkv.weight`, ...: query, key and value in one tensor.
pub(super) struct OriginalNames;

/// What models that hold an encoder put before its names.
const WRAPPERS: &[&str] = &["pixio."];

impl NameMap for HuggingFaceNames {
    fn layout(&self) -> &'static str {
        "Hugging Face layout"
    }

    fn wrappers(&self) -> &'static [&'static str] {
        WRAPPERS
    }

    fn place(&self, name: &str) -> Option<Place> {
        from_hugging_face(name)
    }

    fn stored_names(&self, name: &str) -> Vec<String> {
        to_hugging_face(name)
    }

    fn numbers(&self, shapes: &BTreeMap<&str, Vec<i64>>) -> Vec<(String, i64)> {
        numbers(shapes)
    }
}

impl NameMap for OriginalNames {
    fn layout(&self) -> &'static str {
        "original Pixio layout"
    }

    fn wrappers(&self) -> &'static [&'static str] {
        WRAPPERS
    }

    fn place(&self, name: &str) -> Option<Place> {
        let is_known = !to_hugging_face(name).is_empty();
        is_known.then(|| Place { name: name.to_string(), part: None })
    }

    fn stored_names(&self, name: &str) -> Vec<String> {
        self.place(name).map(|place| place.name).into_iter().collect()
    }

    fn numbers(&self, shapes: &BTreeMap<&str, Vec<i64>>) -> Vec<(String, i64)> {
        numbers(shapes)
    }
}

/// Width and depth.
fn numbers(shapes: &BTreeMap<&str, Vec<i64>>) -> Vec<(String, i64)> {
    let block = |name: &&str| Some(name.strip_prefix("blocks.")?.split('.').next()?.to_string());
    let depth = shapes.keys().filter_map(block).collect::<BTreeSet<_>>().len() as i64;
    let width = shapes.get("cls_token").and_then(|shape| shape.last().copied()).unwrap_or(0);
    vec![(format!("width {width}"), width), (format!("{depth} blocks"), depth)]
}

/// Names outside the blocks: original, Hugging Face.
const OUTSIDE_BLOCKS: [(&str, &str); 6] = [
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"),
    ("patch_embed.proj.bias", "embeddings.patch_embeddings.projection.bias"),
    ("norm.weight", "layernorm.weight"),
    ("norm.bias", "layernorm.bias"),
];

/// Modules of a block: original, published Hugging Face, Hugging Face in memory.
const IN_BLOCK: [(&str, &str, &str); 5] = [
    ("norm1", "norm1", "layernorm_before"),
    ("norm2", "norm2", "layernorm_after"),
    ("attn.proj", "attention.output.dense", "attention.o_proj"),
    ("mlp.fc1", "intermediate.dense", "mlp.fc1"),
    ("mlp.fc2", "output.dense", "mlp.fc2"),
];

/// The parts of the fused `attn.qkv`, in its order: published Hugging Face, in memory.
const QKV: [(&str, &str); 3] = [
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
];

/// The place of the tensor that a Hugging Face file calls `name`.
fn from_hugging_face(name: &str) -> Option<Place> {
    if let Some((pixio, _)) = OUTSIDE_BLOCKS.iter().find(|(_, theirs)| *theirs == name) {
        return Some(Place { name: (*pixio).into(), part: None });
    }
    let in_layers = name.strip_prefix("encoder.").unwrap_or(name);
    let numbered =
        in_layers.strip_prefix("layer.").or_else(|| in_layers.strip_prefix("layers."))?;
    let (block, parameter) = numbered.split_once('.')?;
    let block: usize = block.parse().ok()?;
    let (module, kind) = parameter.rsplit_once('.')?;
    if let Some(third) = QKV.iter().position(|known| [known.0, known.1].contains(&module)) {
        return Some(Place { name: format!("blocks.{block}.attn.qkv.{kind}"), part: Some(third) });
    }
    let known = IN_BLOCK.iter().find(|known| [known.1, known.2].contains(&module))?;
    Some(Place { name: format!("blocks.{block}.{}.{kind}", known.0), part: None })
}

/// The published Hugging Face names of an original tensor: three for a fused one, none for a
/// tensor that is no part of the encoder.
fn to_hugging_face(name: &str) -> Vec<String> {
    if let Some((_, theirs)) = OUTSIDE_BLOCKS.iter().find(|(pixio, _)| *pixio == name) {
        return vec![(*theirs).into()];
    }
    let in_block = || {
        let (block, parameter) = name.strip_prefix("blocks.")?.split_once('.')?;
        let (module, kind) = parameter.rsplit_once('.')?;
        if module == "attn.qkv" {
            let names = QKV.map(|known| format!("encoder.layer.{block}.{}.{kind}", known.0));
            return Some(names.to_vec());
        }
        let known = IN_BLOCK.iter().find(|known| known.0 == module)?;
        Some(vec![format!("encoder.layer.{block}.{}.{kind}", known.1)])
    };
    in_block().unwrap_or_default()
}

/// The original names of all parameters of an encoder with `depth` blocks.
pub(super) fn parameters(depth: usize) -> Vec<String> {
    let outside = OUTSIDE_BLOCKS.iter().map(|(pixio, _)| pixio.to_string());
    let modules = || IN_BLOCK.iter().map(|known| known.0).chain(["attn.qkv"]);
    let in_blocks = (0..depth).flat_map(|block| {
        modules().flat_map(move |module| {
            ["weight", "bias"].map(|kind| format!("blocks.{block}.{module}.{kind}"))
        })
    });
    outside.chain(in_blocks).collect()
}

/// Whether a tensor of this name stands beside the encoder in checkpoints: a student's projector,
/// the decoder and mask token of masked autoencoding, a classifier.
pub(super) fn is_beside(name: &str) -> bool {
    ["last_proj.", "decoder_", "mask_token", "embeddings.mask_token", "head.", "classifier."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every Hugging Face name that is written is read back as the same parameter.
    #[test]
    fn names_round_trip() {
        for name in parameters(12) {
            let theirs = to_hugging_face(&name);
            assert_eq!(theirs.len(), if name.contains("qkv") { 3 } else { 1 }, "{name}");
            for (third, written) in theirs.iter().enumerate() {
                let third = name.contains("qkv").then_some(third);
                let place = Place { name: name.clone(), part: third };
                assert_eq!(from_hugging_face(written), Some(place), "{written}");
            }
        }
    }

    /// The names that transformers 5.23 uses in memory mean the same parameters.
    #[test]
    fn in_memory_names_are_understood() {
        for (theirs, name, third) in [
            ("layers.3.attention.k_proj.bias", "blocks.3.attn.qkv.bias", Some(1)),
            ("layers.3.attention.o_proj.weight", "blocks.3.attn.proj.weight", None),
            ("layers.0.layernorm_after.weight", "blocks.0.norm2.weight", None),
            ("encoder.layer.0.mlp.fc2.bias", "blocks.0.mlp.fc2.bias", None),
        ] {
            assert_eq!(from_hugging_face(theirs), Some(Place { name: name.into(), part: third }));
        }
    }

    /// What is neither layout is not taken for one.
    #[test]
    fn strangers_are_not_recognised() {
        for name in ["blocks.x", "decoder_blocks.0.norm1.weight", "layers.q.norm1.weight", ""] {
            assert_eq!(from_hugging_face(name), None, "{name}");
        }
        for name in ["conv1.weight", "decoder_pred.bias"] {
            assert_eq!(OriginalNames.place(name), None, "{name}");
        }
    }
}
