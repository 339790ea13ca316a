//! [`NameTable`]: how vision transformers are called in Hugging Face files, as a table.

use std::collections::{BTreeMap, BTreeSet};

use crate::weights::{NameMap, Place};

/// The kinds of a module's parameters: ours and theirs.
const WEIGHT_AND_BIAS: &[(&str, &str)] = &[("weight", "weight"), ("bias", "bias")];

/// A module of a block.
pub(super) struct Module {
    pub own: &'static str,
    /// What files call it; the first is written.
    pub theirs: &'static [&'static str],
    /// Its parameters: ours, theirs.
    pub kinds: &'static [(&'static str, &'static str)],
}

impl Module {
    /// One that has a weight and a bias.
    pub const fn plain(own: &'static str, theirs: &'static [&'static str]) -> Self {
        Self { own, theirs, kinds: WEIGHT_AND_BIAS }
    }
}

/// One of ours, and several of theirs in its order: for each of theirs all that files call it, of which the first is
/// written.
type Fused = (&'static str, &'static [&'static [&'static str]]);

/// Queries, keys and values, as published files and `transformers` in memory call them.
pub(super) const QKV: Fused = (
    "attn.qkv",
    &[
        &["attention.attention.query", "attention.q_proj"],
        &["attention.attention.key", "attention.k_proj"],
        &["attention.attention.value", "attention.v_proj"],
    ],
);

/// Names of an encoder with numbered blocks: ours are those of the original checkpoints, `blocks.0.norm1.weight`,
/// theirs those that `transformers` writes, `encoder.layer.0.norm1.weight`.
pub(super) struct NameTable {
    /// What messages call our layout.
    pub own_layout: &'static str,
    /// What models that hold an encoder put before its names.
    pub wrappers: &'static [&'static str],
    /// Parameters outside the blocks: ours, theirs.
    pub outside: &'static [(&'static str, &'static str)],
    pub in_block: &'static [Module],
    /// The module that is one of ours and several of theirs.
    pub fused: Fused,
}

impl NameTable {
    /// The place of the tensor that a Hugging Face file calls `name`.
    fn place_of(&self, name: &str) -> Option<Place> {
        if let Some((own, _)) = self.outside.iter().find(|(_, theirs)| *theirs == name) {
            return Some(Place { name: (*own).into(), part: None });
        }
        let in_layers = name.strip_prefix("encoder.").unwrap_or(name);
        let numbered =
            in_layers.strip_prefix("layer.").or_else(|| in_layers.strip_prefix("layers."))?;
        let (block, parameter) = numbered.split_once('.')?;
        let block: usize = block.parse().ok()?;
        let (module, kind) = parameter.rsplit_once('.')?;
        let (fused, parts) = self.fused;
        let is_plain = WEIGHT_AND_BIAS.iter().any(|(_, theirs)| *theirs == kind);
        if let Some(part) = parts.iter().position(|part| is_plain && part.contains(&module)) {
            let name = format!("blocks.{block}.{fused}.{kind}");
            return Some(Place { name, part: Some(part) });
        }
        let known = self.in_block.iter().find(|known| known.theirs.contains(&module))?;
        let (own_kind, _) = known.kinds.iter().find(|(_, theirs)| *theirs == kind)?;
        Some(Place { name: format!("blocks.{block}.{}.{own_kind}", known.own), part: None })
    }

    /// The names that `transformers` gives one of our parameters: several for a fused one, none for a tensor that
    /// is no part of the encoder.
    fn theirs(&self, name: &str) -> Vec<String> {
        if let Some((_, theirs)) = self.outside.iter().find(|(own, _)| *own == name) {
            return vec![(*theirs).into()];
        }
        let in_block = || {
            let (block, parameter) = name.strip_prefix("blocks.")?.split_once('.')?;
            block.parse::<usize>().ok()?;
            let (module, kind) = parameter.rsplit_once('.')?;
            let (fused, parts) = self.fused;
            if module == fused {
                WEIGHT_AND_BIAS.iter().find(|(own, _)| *own == kind)?;
                let part = |part: &&[&str]| format!("encoder.layer.{block}.{}.{kind}", part[0]);
                return Some(parts.iter().map(part).collect());
            }
            let known = self.in_block.iter().find(|known| known.own == module)?;
            let (_, their_kind) = known.kinds.iter().find(|(own, _)| *own == kind)?;
            Some(vec![format!("encoder.layer.{block}.{}.{their_kind}", known.theirs[0])])
        };
        in_block().unwrap_or_default()
    }
}

/// The names in Hugging Face files.
pub(super) struct HuggingFaceNames(pub &'static NameTable);

/// Our names.
pub(super) struct OwnNames(pub &'static NameTable);

impl NameMap for HuggingFaceNames {
    fn layout(&self) -> &'static str {
        "Hugging Face layout"
    }

    fn wrappers(&self) -> &'static [&'static str] {
        self.0.wrappers
    }

    fn place(&self, name: &str) -> Option<Place> {
        self.0.place_of(name)
    }

    fn stored_names(&self, name: &str) -> Vec<String> {
        self.0.theirs(name)
    }

    fn numbers(&self, shapes: &BTreeMap<&str, Vec<i64>>) -> Vec<(String, i64)> {
        numbers(shapes)
    }
}

impl NameMap for OwnNames {
    fn layout(&self) -> &'static str {
        self.0.own_layout
    }

    fn wrappers(&self) -> &'static [&'static str] {
        self.0.wrappers
    }

    fn place(&self, name: &str) -> Option<Place> {
        let is_known = !self.0.theirs(name).is_empty();
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
