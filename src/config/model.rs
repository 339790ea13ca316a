//! Sizes of Pixio encoders: the published five by name, or any by numbers.

use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The published encoders: name, width, depth, heads.
pub const SIZES: [(&str, usize, usize, usize); 5] = [
    ("pixio_vitb16", 768, 12, 12),
    ("pixio_vitl16", 1024, 24, 16),
    ("pixio_vith16", 1280, 32, 16),
    ("pixio_vit1b16", 1536, 48, 24),
    ("pixio_vit5b16", 3072, 48, 32),
];

/// The numbers that fix an encoder's parameters, all but the size of its position grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderSize {
    /// Width of every token.
    pub dim: usize,
    /// Number of transformer blocks.
    pub depth: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// Side of a square patch, in pixels.
    pub patch_size: usize,
    /// Learned tokens that stand before the patch tokens.
    pub class_tokens: usize,
    /// Width of the MLP's hidden layer over `dim`.
    pub mlp_ratio: usize,
}

/// An encoder by numbers, as it stands in a config: `{ dim = 192, depth = 6, heads = 3 }`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbers {
    dim: usize,
    depth: usize,
    heads: usize,
    #[serde(default = "patch_size")]
    patch_size: usize,
    #[serde(default = "class_tokens")]
    class_tokens: usize,
    #[serde(default = "mlp_ratio")]
    mlp_ratio: usize,
}

fn patch_size() -> usize {
    16
}
fn class_tokens() -> usize {
    8
}
fn mlp_ratio() -> usize {
    4
}

impl EncoderSize {
    /// An encoder of this width, depth and heads with Pixio's patch size, class tokens and MLP.
    pub fn new(dim: usize, depth: usize, heads: usize) -> Self {
        Self {
            dim,
            depth,
            heads,
            patch_size: patch_size(),
            class_tokens: class_tokens(),
            mlp_ratio: mlp_ratio(),
        }
    }

    /// The published encoder of this name.
    pub fn named(name: &str) -> Option<Self> {
        SIZES
            .iter()
            .find(|size| size.0 == name)
            .map(|&(_, dim, depth, heads)| Self::new(dim, depth, heads))
    }

    /// The published name of these numbers, where they have one.
    pub fn name(&self) -> Option<&'static str> {
        SIZES.iter().map(|size| size.0).find(|name| Self::named(name) == Some(*self))
    }
}

impl EncoderSize {
    /// As it is written in a configuration: a name, or an inline table of numbers.
    pub fn to_toml(&self) -> String {
        let Self { dim, depth, heads, patch_size, class_tokens, mlp_ratio } = *self;
        self.name().map_or_else(
            || {
                format!(
                    "{{ dim = {dim}, depth = {depth}, heads = {heads}, patch_size = {patch_size}, \
                     class_tokens = {class_tokens}, mlp_ratio = {mlp_ratio} }}"
                )
            },
            |name| format!("\"{name}\""),
        )
    }
}

impl std::fmt::Display for EncoderSize {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(
                f,
                "width {}, depth {}, heads {}, patch {}",
                self.dim, self.depth, self.heads, self.patch_size
            ),
        }
    }
}

impl Serialize for EncoderSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(name) = self.name() {
            return serializer.serialize_str(name);
        }
        let Self { dim, depth, heads, patch_size, class_tokens, mlp_ratio } = *self;
        Numbers { dim, depth, heads, patch_size, class_tokens, mlp_ratio }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for EncoderSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameOrNumbers)
    }
}

struct NameOrNumbers;

impl<'de> Visitor<'de> for NameOrNumbers {
    type Value = EncoderSize;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("the name of an encoder or a table { dim, depth, heads, ... }")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<EncoderSize, E> {
        EncoderSize::named(name).ok_or_else(|| {
            let known: Vec<_> = SIZES.iter().map(|size| format!("`{}`", size.0)).collect();
            E::custom(format!("unknown encoder `{name}`, expected one of {}", known.join(", ")))
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EncoderSize, A::Error> {
        let Numbers { dim, depth, heads, patch_size, class_tokens, mlp_ratio } =
            Numbers::deserialize(MapAccessDeserializer::new(map))?;
        Ok(EncoderSize { dim, depth, heads, patch_size, class_tokens, mlp_ratio })
    }
}
