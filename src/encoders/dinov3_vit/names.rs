//! The names of DINOv3's parameters.
//!
//! Our own names are those of DINOv2's checkpoints where that has such parameters; biases of queries, keys and values
//! stand apart, since keys have none. The Hugging Face layout calls the last product of any MLP alike, and the first of
//! a plain one as the second of a gated one: so there are two tables. A third layout is that of the original
//! checkpoints.

use std::collections::BTreeMap;

use crate::encoders::name_table::{
    Fused, HuggingFaceNames, Module, NameTable, OwnNames, WEIGHT_AND_BIAS,
};
use crate::weights::{NameMap, Place};

pub(super) static PLAIN: HuggingFaceNames = HuggingFaceNames(&PLAIN_TABLE);
pub(super) static GATED: HuggingFaceNames = HuggingFaceNames(&GATED_TABLE);
pub(super) static OWN: OwnNames = OwnNames(&[&PLAIN_TABLE, &GATED_TABLE]);
pub(super) static ORIGINAL: Original = Original;

const fn table(in_block: &'static [&'static [Module]], fused: &'static [Fused]) -> NameTable {
    NameTable {
        own_layout: "DINOv3 layout of this program",
        wrappers: &["dinov3_vit."],
        prefix: "",
        outside: &[&[
            ("cls_token", "embeddings.cls_token"),
            ("register_tokens", "embeddings.register_tokens"),
            ("patch_embed.proj.weight", "embeddings.patch_embeddings.weight"),
            ("patch_embed.proj.bias", "embeddings.patch_embeddings.bias"),
            ("norm.weight", "norm.weight"),
            ("norm.bias", "norm.bias"),
        ]],
        blocks: "layer",
        in_block,
        fused,
    }
}

static PLAIN_TABLE: NameTable = table(&[COMMON, PLAIN_MLP], &[QKV]);
static GATED_TABLE: NameTable = table(&[COMMON, GATED_MLP], &[QKV, W12]);

const COMMON: &[Module] = &[
    Module::plain("norm1", &["norm1"]),
    Module::plain("norm2", &["norm2"]),
    Module { own: "attn", theirs: &["attention.q_proj"], kinds: &[("q_bias", "bias")] },
    Module { own: "attn", theirs: &["attention.k_proj"], kinds: &[("k_bias", "bias")] },
    Module { own: "attn", theirs: &["attention.v_proj"], kinds: &[("v_bias", "bias")] },
    Module::plain("attn.proj", &["attention.o_proj"]),
    Module { own: "ls1", theirs: &["layer_scale1"], kinds: LAYER_SCALE },
    Module { own: "ls2", theirs: &["layer_scale2"], kinds: LAYER_SCALE },
];

const PLAIN_MLP: &[Module] =
    &[Module::plain("mlp.fc1", &["mlp.up_proj"]), Module::plain("mlp.fc2", &["mlp.down_proj"])];

const GATED_MLP: &[Module] = &[Module::plain("mlp.w3", &["mlp.down_proj"])];

const LAYER_SCALE: &[(&str, &str)] = &[("gamma", "lambda1")];

const QKV: Fused = Fused {
    own: "attn.qkv",
    theirs: &[&["attention.q_proj"], &["attention.k_proj"], &["attention.v_proj"]],
    kinds: &[("weight", "weight")],
};

const W12: Fused = Fused {
    own: "mlp.w12",
    theirs: &[&["mlp.gate_proj"], &["mlp.up_proj"]],
    kinds: WEIGHT_AND_BIAS,
};

/// The layout of the original checkpoints.
pub(super) struct Original;

impl Original {
    /// The matrices of a gated MLP whose halves stand apart: theirs, and which part of ours.
    const HALVES: [(&'static str, usize); 2] = [("mlp.w1", 0), ("mlp.w2", 1)];
}

impl NameMap for Original {
    fn layout(&self) -> &'static str {
        "original DINOv3 layout"
    }

    fn wrappers(&self) -> &'static [&'static str] {
        &[]
    }

    fn place(&self, name: &str) -> Option<Place> {
        let half = Self::HALVES.iter().find_map(|(theirs, part)| {
            let (block, kind) = name.split_once(&format!(".{theirs}."))?;
            Some(Place { name: format!("{block}.mlp.w12.{kind}"), part: Some(*part) })
        });
        if half.is_some() {
            return half.filter(|place| OWN.place(&place.name).is_some());
        }
        match name {
            "storage_tokens" => Some(Place { name: "register_tokens".into(), part: None }),
            "register_tokens" => None,
            name => OWN.place(name).filter(|_| !name.contains(".mlp.w12.")),
        }
    }

    /// The bias of queries, keys and values is one; that of the keys is masked, which leaves it out.
    fn parameters_in(&self, name: &str) -> Vec<Option<String>> {
        let Some(attention) = name.strip_suffix(".qkv.bias") else { return Vec::new() };
        let parts = ["q_bias", "v_bias"].map(|part| format!("{attention}.{part}"));
        let [query, value] = parts;
        match OWN.place(&query) {
            Some(_) => vec![Some(query), None, Some(value)],
            None => Vec::new(),
        }
    }

    fn stored_names(&self, name: &str) -> Vec<String> {
        if let Some((block, kind)) = name.split_once(".mlp.w12.") {
            return Self::HALVES.map(|(half, _)| format!("{block}.{half}.{kind}")).into();
        }
        let own = OWN.stored_names(name).into_iter();
        let theirs =
            own.map(|own| match own.strip_suffix("_bias").and_then(|own| own.rsplit_once('.')) {
                Some((attention, _)) => format!("{attention}.qkv.bias"),
                None => own.replace("register_tokens", "storage_tokens"),
            });
        theirs.collect()
    }

    fn numbers(&self, shapes: &BTreeMap<&str, Vec<i64>>) -> Vec<(String, i64)> {
        OWN.numbers(shapes)
    }
}

/// Whether a tensor of this name stands beside the encoder in checkpoints: a student's projector, the token of what
/// is masked in pre-training, which biases are masked, numbers that rotary positions follow from, a classifier.
pub(super) fn is_beside(name: &str) -> bool {
    ["last_proj.", "mask_token", "embeddings.mask_token", "head.", "classifier.", "local_cls_norm."]
        .iter()
        .chain(&["rope_embed.", "rope_embeddings."])
        .any(|prefix| name.starts_with(prefix))
        || name.ends_with(".attn.qkv.bias_mask")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, part: Option<usize>) -> Option<Place> {
        Some(Place { name: name.into(), part })
    }

    /// One name is the first product of a plain MLP and the second half of a gated one's.
    #[test]
    fn mlps_have_tables_of_their_own() {
        assert_eq!(PLAIN.place("layer.2.mlp.up_proj.bias"), place("blocks.2.mlp.fc1.bias", None));
        assert_eq!(
            GATED.place("model.layer.2.mlp.up_proj.bias"),
            place("blocks.2.mlp.w12.bias", Some(1))
        );
        assert_eq!(PLAIN.place("layer.2.mlp.gate_proj.bias"), None);
        assert_eq!(
            GATED.stored_names("blocks.2.mlp.w12.weight"),
            ["layer.2.mlp.gate_proj.weight", "layer.2.mlp.up_proj.weight"]
        );
        assert_eq!(PLAIN.stored_names("blocks.0.attn.v_bias"), ["layer.0.attention.v_proj.bias"]);
    }

    /// Names of original checkpoints, and back.
    #[test]
    fn original_names_are_understood() {
        assert_eq!(ORIGINAL.place("storage_tokens"), place("register_tokens", None));
        assert_eq!(
            ORIGINAL.place("blocks.1.mlp.w2.weight"),
            place("blocks.1.mlp.w12.weight", Some(1))
        );
        assert_eq!(ORIGINAL.place("blocks.x.mlp.w2.weight"), None);
        let bias = "blocks.1.attn.qkv.bias";
        let [query, value] = ["q", "v"].map(|part| Some(format!("blocks.1.attn.{part}_bias")));
        assert_eq!(ORIGINAL.parameters_in(bias), [query.clone(), None, value]);
        assert_eq!(ORIGINAL.stored_names(&query.unwrap()), [bias]);
        assert!(is_beside("blocks.1.attn.qkv.bias_mask") && !is_beside(bias));
    }
}
