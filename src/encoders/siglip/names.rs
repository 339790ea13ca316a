//! The names of the parameters of SigLIP's image tower.
//!
//! Our own names are timm's for tokens. The Hugging Face layout is the one of published files, where all begins with
//! `vision_model.`; files without it, as `transformers` 5 writes, are the same.

use crate::encoders::name_table::{HuggingFaceNames, NameTable, OwnNames};
use crate::encoders::towers::{MODULES, QKV};

pub(super) static HUGGING_FACE: HuggingFaceNames = HuggingFaceNames(&TABLE);
pub(super) static OWN: OwnNames = OwnNames(&[&TABLE]);

static TABLE: NameTable = NameTable {
    own_layout: "SigLIP layout of this program",
    wrappers: &["siglip.", "vision_model."],
    prefix: "vision_model.",
    outside: &[
        &[
            ("pos_embed", "embeddings.position_embedding.weight"),
            ("patch_embed.proj.weight", "embeddings.patch_embedding.weight"),
            ("patch_embed.proj.bias", "embeddings.patch_embedding.bias"),
            ("norm.weight", "post_layernorm.weight"),
            ("norm.bias", "post_layernorm.bias"),
        ],
        HEAD,
    ],
    blocks: "encoder.layers",
    in_block: &[MODULES],
    fused: &[QKV],
};

const HEAD: &[(&str, &str)] = &[
    ("head.probe", "head.probe"),
    ("head.attn.qkv.weight", "head.attention.in_proj_weight"),
    ("head.attn.qkv.bias", "head.attention.in_proj_bias"),
    ("head.attn.proj.weight", "head.attention.out_proj.weight"),
    ("head.attn.proj.bias", "head.attention.out_proj.bias"),
    ("head.norm.weight", "head.layernorm.weight"),
    ("head.norm.bias", "head.layernorm.bias"),
    ("head.mlp.fc1.weight", "head.mlp.fc1.weight"),
    ("head.mlp.fc1.bias", "head.mlp.fc1.bias"),
    ("head.mlp.fc2.weight", "head.mlp.fc2.weight"),
    ("head.mlp.fc2.bias", "head.mlp.fc2.bias"),
];
