//! [`NameTable`]: how vision transformers are called in Hugging Face files, as a table.

use std::collections::{BTreeMap, BTreeSet};

use crate::weights::{NameMap, Place};

/// The kinds of a module's parameters: ours and theirs.
pub(super) const WEIGHT_AND_BIAS: &[(&str, &str)] = &[("weight", "weight"), ("bias", "bias")];

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

/// A module that is one of ours and several of theirs.
pub(super) struct Fused {
    pub own: &'static str,
    /// In the order of ours, for each of theirs all that files call it, of which the first is written.
    pub theirs: &'static [&'static [&'static str]],
    /// Its parameters: ours, theirs.
    pub kinds: &'static [(&'static str, &'static str)],
}

/// What an encoder of class tokens and patches has outside its blocks: our names, and those of the Hugging Face layout.
pub(super) const CLASS_AND_PATCHES: &[(&str, &str)] = &[
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"),
    ("patch_embed.proj.bias", "embeddings.patch_embeddings.projection.bias"),
    ("norm.weight", "layernorm.weight"),
    ("norm.bias", "layernorm.bias"),
];

/// Queries, keys and values, as published files and `transformers` in memory call them.
pub(super) const QKV: Fused = Fused {
    own: "attn.qkv",
    theirs: &[
        &["attention.attention.query", "attention.q_proj"],
        &["attention.attention.key", "attention.k_proj"],
        &["attention.attention.value", "attention.v_proj"],
    ],
    kinds: WEIGHT_AND_BIAS,
};

/// Names of an encoder with numbered blocks: ours are those of the original checkpoints, `blocks.0.norm1.weight`,
/// theirs those that `transformers` writes, `encoder.layer.0.norm1.weight`.
pub(super) struct NameTable {
    /// What messages call our layout.
    pub own_layout: &'static str,
    /// What models that hold an encoder put before its names.
    pub wrappers: &'static [&'static str],
    /// What `transformers` writes before every name; it is read without, or as one of the wrappers.
    pub prefix: &'static str,
    /// Parameters outside the blocks: ours, theirs.
    pub outside: &'static [&'static [(&'static str, &'static str)]],
    /// What numbered blocks are written under; others are read too.
    pub blocks: &'static str,
    pub in_block: &'static [&'static [Module]],
    pub fused: &'static [Fused],
}

impl NameTable {
    /// The modules of a block.
    pub fn modules(&self) -> impl Iterator<Item = &'static Module> {
        self.in_block.iter().copied().flatten()
    }

    /// The parameters outside the blocks: ours, theirs.
    pub fn outside(&self) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        self.outside.iter().copied().flatten()
    }

    /// The place of the tensor that a Hugging Face file calls `name`.
    fn place_of(&self, name: &str) -> Option<Place> {
        if let Some((own, _)) = self.outside().find(|(_, theirs)| *theirs == name) {
            return Some(Place { name: (*own).into(), part: None });
        }
        let stack = ["encoder.", "model."].iter().find_map(|stack| name.strip_prefix(stack));
        let in_layers = stack.unwrap_or(name);
        let numbered =
            in_layers.strip_prefix("layer.").or_else(|| in_layers.strip_prefix("layers."))?;
        let (block, parameter) = numbered.split_once('.')?;
        let block: usize = block.parse().ok()?;
        let (module, kind) = parameter.rsplit_once('.')?;
        let own_kind = |kinds: &[(&'static str, &str)]| {
            kinds.iter().find(|(_, theirs)| *theirs == kind).map(|(own, _)| *own)
        };
        let place = |own: &str, kind: &str, part| {
            Some(Place { name: format!("blocks.{block}.{own}.{kind}"), part })
        };
        for Fused { own, theirs, kinds } in self.fused {
            let part = theirs.iter().position(|part| part.contains(&module));
            if let (Some(part), Some(kind)) = (part, own_kind(kinds)) {
                return place(own, kind, Some(part));
            }
        }
        let mut known = self.modules().filter(|known| known.theirs.contains(&module));
        known.find_map(|known| place(known.own, own_kind(known.kinds)?, None))
    }

    /// The names that `transformers` gives one of our parameters: several for a fused one, none for a tensor that
    /// is no part of the encoder.
    fn theirs(&self, name: &str) -> Vec<String> {
        if let Some((_, theirs)) = self.outside().find(|(own, _)| *own == name) {
            return vec![(*theirs).into()];
        }
        let in_block = || {
            let (block, parameter) = name.strip_prefix("blocks.")?.split_once('.')?;
            block.parse::<usize>().ok()?;
            let (module, kind) = parameter.rsplit_once('.')?;
            let their_kind = |kinds: &[(&str, &'static str)]| {
                kinds.iter().find(|(own, _)| *own == kind).map(|(_, theirs)| *theirs)
            };
            let name =
                |module: &str, kind: &str| format!("{}.{block}.{module}.{kind}", self.blocks);
            if let Some(fused) = self.fused.iter().find(|fused| fused.own == module) {
                let kind = their_kind(fused.kinds)?;
                return Some(fused.theirs.iter().map(|part| name(part[0], kind)).collect());
            }
            let mut known = self.modules().filter(|known| known.own == module);
            known.find_map(|known| Some(vec![name(known.theirs[0], their_kind(known.kinds)?)]))
        };
        in_block().unwrap_or_default()
    }
}

/// The names in Hugging Face files.
pub(super) struct HuggingFaceNames(pub &'static NameTable);

/// Our names, which are in any of the tables.
pub(super) struct OwnNames(pub &'static [&'static NameTable]);

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
        self.0.theirs(name).into_iter().map(|theirs| format!("{}{theirs}", self.0.prefix)).collect()
    }

    fn numbers(&self, shapes: &BTreeMap<&str, Vec<i64>>) -> Vec<(String, i64)> {
        numbers(shapes)
    }
}

impl NameMap for OwnNames {
    fn layout(&self) -> &'static str {
        self.0[0].own_layout
    }

    fn wrappers(&self) -> &'static [&'static str] {
        self.0[0].wrappers
    }

    fn place(&self, name: &str) -> Option<Place> {
        let is_known = self.0.iter().any(|table| !table.theirs(name).is_empty());
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
    let of_width = ["cls_token", "norm.weight"].iter().find_map(|name| shapes.get(name));
    let width = of_width.and_then(|shape| shape.last().copied()).unwrap_or(0);
    vec![(format!("width {width}"), width), (format!("{depth} blocks"), depth)]
}
