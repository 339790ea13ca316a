//! The names of Pixio's parameters.
//!
//! Our own names are those of the original checkpoints. The Hugging Face layout is the one that
//! `PixioModel` has in published files; the names that `transformers` 5.23 gives the same
//! parameters in memory are understood too.

use crate::encoders::name_table::{
    CLASS_AND_PATCHES, HuggingFaceNames, Module, NameTable, OwnNames, QKV,
};

/// `encoder.layer.0.attention.attention.query.weight`, ...: query, key and value apart.
pub(super) static HUGGING_FACE: HuggingFaceNames = HuggingFaceNames(&TABLE);

/// `blocks.0.attn.qkv.weight`, ...: query, key and value in one tensor.
pub(super) static ORIGINAL: OwnNames = OwnNames(&[&TABLE]);

static TABLE: NameTable = NameTable {
    own_layout: "original Pixio layout",
    wrappers: &["pixio."],
    prefix: "",
    outside: &[CLASS_AND_PATCHES],
    blocks: "encoder.layer",
    in_block: &[MODULES],
    fused: &[QKV],
};

const MODULES: &[Module] = &[
    Module::plain("norm1", &["norm1", "layernorm_before"]),
    Module::plain("norm2", &["norm2", "layernorm_after"]),
    Module::plain("attn.proj", &["attention.output.dense", "attention.o_proj"]),
    Module::plain("mlp.fc1", &["intermediate.dense", "mlp.fc1"]),
    Module::plain("mlp.fc2", &["output.dense", "mlp.fc2"]),
];

/// The original names of all parameters of an encoder with `depth` blocks.
pub(super) fn parameters(depth: usize) -> Vec<String> {
    let outside = TABLE.outside().map(|(pixio, _)| pixio.to_string());
    let modules = || TABLE.modules().map(|known| known.own).chain([QKV.own]);
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
    use crate::weights::{NameMap, Place};

    /// Every Hugging Face name that is written is read back as the same parameter.
    #[test]
    fn names_round_trip() {
        for name in parameters(12) {
            let theirs = HUGGING_FACE.stored_names(&name);
            assert_eq!(theirs.len(), if name.contains("qkv") { 3 } else { 1 }, "{name}");
            for (third, written) in theirs.iter().enumerate() {
                let third = name.contains("qkv").then_some(third);
                let place = Place { name: name.clone(), part: third };
                assert_eq!(HUGGING_FACE.place(written), Some(place), "{written}");
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
            let place = Place { name: name.into(), part: third };
            assert_eq!(HUGGING_FACE.place(theirs), Some(place));
        }
    }

    /// What is neither layout is not taken for one.
    #[test]
    fn strangers_are_not_recognised() {
        for name in ["blocks.x", "decoder_blocks.0.norm1.weight", "layers.q.norm1.weight", ""] {
            assert_eq!(HUGGING_FACE.place(name), None, "{name}");
        }
        for name in ["conv1.weight", "decoder_pred.bias", "blocks.0.ls1.gamma"] {
            assert_eq!(ORIGINAL.place(name), None, "{name}");
        }
    }
}
