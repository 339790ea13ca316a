//! The names of a plain vision transformer's parameters.
//!
//! Our own names are those of the original checkpoints of masked autoencoders and of timm. The Hugging Face layout is
//! the one of published files; the names that `transformers` 5.23 gives the same parameters in memory are understood too.

use crate::encoders::name_table::{
    CLASS_AND_PATCHES, HuggingFaceNames, Module, NameTable, OwnNames, QKV,
};

pub(super) static HUGGING_FACE: HuggingFaceNames = HuggingFaceNames(&TABLE);
pub(super) static OWN: OwnNames = OwnNames(&[&TABLE]);
pub(super) static HUGGING_FACE_DISTILLED: HuggingFaceNames = HuggingFaceNames(&DISTILLED_TABLE);
pub(super) static OWN_DISTILLED: OwnNames = OwnNames(&[&DISTILLED_TABLE]);

static TABLE: NameTable = NameTable {
    own_layout: "original ViT layout",
    wrappers: &["vit."],
    prefix: "",
    outside: &[CLASS_AND_PATCHES],
    blocks: "encoder.layer",
    in_block: &[MODULES],
    fused: &[QKV],
};

static DISTILLED_TABLE: NameTable = NameTable {
    own_layout: "original DeiT layout",
    wrappers: &["deit."],
    prefix: "",
    outside: &[CLASS_AND_PATCHES, &[("dist_token", "embeddings.distillation_token")]],
    blocks: "encoder.layer",
    in_block: &[MODULES],
    fused: &[QKV],
};

const MODULES: &[Module] = &[
    Module::plain("norm1", &["layernorm_before"]),
    Module::plain("norm2", &["layernorm_after"]),
    Module::plain("attn.proj", &["attention.output.dense", "attention.o_proj"]),
    Module::plain("mlp.fc1", &["intermediate.dense", "mlp.fc1"]),
    Module::plain("mlp.fc2", &["output.dense", "mlp.fc2"]),
];

/// Whether a tensor of this name stands beside the encoder in checkpoints: a student's projector, what `transformers`
/// computes of the class token, classifiers, the decoder and mask token of masked autoencoding.
pub(super) fn is_beside(name: &str) -> bool {
    let prefixes = ["last_proj.", "pooler.", "classifier.", "head.", "decoder.", "decoder_"];
    let of_masks = ["mask_token", "embeddings.mask_token"];
    let of_distillation = ["cls_classifier.", "distillation_classifier.", "head_dist."];
    prefixes.iter().chain(&of_masks).chain(&of_distillation).any(|prefix| name.starts_with(prefix))
}
