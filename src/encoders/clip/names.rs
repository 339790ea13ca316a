//! The names of the parameters of CLIP's image tower.
//!
//! Our own names are timm's. The Hugging Face layout is the one of published files, where all begins with
//! `vision_model.`; files without it, as `transformers` 5 writes, are the same.

use crate::encoders::name_table::{HuggingFaceNames, NameTable, OwnNames};
use crate::encoders::towers::{MODULES, QKV};

pub(super) static HUGGING_FACE: HuggingFaceNames = HuggingFaceNames(&TABLE);
pub(super) static OWN: OwnNames = OwnNames(&[&TABLE]);

static TABLE: NameTable = NameTable {
    own_layout: "CLIP layout of this program",
    wrappers: &["clip.", "vision_model."],
    prefix: "vision_model.",
    outside: &[&[
        ("cls_token", "embeddings.class_embedding"),
        ("pos_embed", "embeddings.position_embedding.weight"),
        ("patch_embed.proj.weight", "embeddings.patch_embedding.weight"),
        ("norm_pre.weight", "pre_layrnorm.weight"),
        ("norm_pre.bias", "pre_layrnorm.bias"),
        ("norm.weight", "post_layernorm.weight"),
        ("norm.bias", "post_layernorm.bias"),
    ]],
    blocks: "encoder.layers",
    in_block: &[MODULES],
    fused: &[QKV],
};
