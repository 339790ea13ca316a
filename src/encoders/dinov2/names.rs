//! The names of DINOv2's parameters.
//!
//! Our own names are those of the original checkpoints. The Hugging Face layout is the one of published files;
//! the names that `transformers` 5.23 gives the same parameters in memory are understood too, but for those of a
//! gated MLP, which are one tensor in files and two in memory.

use crate::encoders::name_table::{HuggingFaceNames, Module, NameTable, OwnNames, QKV};

pub(super) static HUGGING_FACE: HuggingFaceNames = HuggingFaceNames(&TABLE);
pub(super) static ORIGINAL: OwnNames = OwnNames(&[&TABLE]);

static TABLE: NameTable = NameTable {
    own_layout: "original DINOv2 layout",
    wrappers: &["dinov2.", "dinov2_with_registers."],
    prefix: "",
    outside: &[&[
        ("cls_token", "embeddings.cls_token"),
        ("register_tokens", "embeddings.register_tokens"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"),
        ("patch_embed.proj.bias", "embeddings.patch_embeddings.projection.bias"),
        ("norm.weight", "layernorm.weight"),
        ("norm.bias", "layernorm.bias"),
    ]],
    blocks: "encoder.layer",
    in_block: &[MODULES],
    fused: &[QKV],
};

const MODULES: &[Module] = &[
    Module::plain("norm1", &["norm1"]),
    Module::plain("norm2", &["norm2"]),
    Module::plain("attn.proj", &["attention.output.dense", "attention.o_proj"]),
    Module::plain("mlp.fc1", &["mlp.fc1"]),
    Module::plain("mlp.fc2", &["mlp.fc2"]),
    Module::plain("mlp.w12", &["mlp.weights_in"]),
    Module::plain("mlp.w3", &["mlp.weights_out"]),
    Module { own: "ls1", theirs: &["layer_scale1"], kinds: LAYER_SCALE },
    Module { own: "ls2", theirs: &["layer_scale2"], kinds: LAYER_SCALE },
];

const LAYER_SCALE: &[(&str, &str)] = &[("gamma", "lambda1")];

/// Whether a tensor of this name stands beside the encoder in checkpoints: a student's projector, the token of what
/// is masked in pre-training, a classifier.
pub(super) fn is_beside(name: &str) -> bool {
    ["last_proj.", "mask_token", "embeddings.mask_token", "head.", "classifier.", "linear_head."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}
