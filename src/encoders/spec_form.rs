//! How an encoder is written in a configuration: a published name, or an inline table of numbers.

use std::fmt;

use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::families::{FAMILIES, default_family};
use super::family::{EncoderSpec, Family};
use crate::nn::{Activation, Biases};

/// An encoder by numbers: `{ dim = 192, depth = 6, heads = 3 }`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbers {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    family: Option<String>,
    dim: usize,
    depth: usize,
    heads: usize,
    patch_size: Option<usize>,
    class_tokens: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registers: Option<usize>,
    mlp_ratio: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mlp_width: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gated: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    activation: Option<Activation>,
    /// Names of the products that add a bias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    biases: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rope_theta: Option<usize>,
}

impl Numbers {
    /// All of them.
    fn complete(spec: &EncoderSpec) -> Self {
        let there = spec.biases.named().into_iter().filter(|(_, is_there)| *is_there);
        Self {
            family: Some(spec.family.name().to_string()),
            dim: spec.dim,
            depth: spec.depth,
            heads: spec.heads,
            patch_size: Some(spec.patch_size),
            class_tokens: Some(spec.class_tokens),
            registers: Some(spec.registers),
            mlp_ratio: Some(spec.mlp_ratio),
            mlp_width: Some(spec.mlp_width),
            gated: Some(spec.gated),
            activation: Some(spec.activation),
            biases: Some(there.map(|(name, _)| name.to_string()).collect()),
            rope_theta: Some(spec.rope_theta),
        }
    }

    /// Those that are written: without what few encoders have, where it is the family's default.
    fn from_spec(spec: &EncoderSpec) -> Self {
        let (all, defaults) = (Self::complete(spec), Self::complete(&spec.family.defaults()));
        Self {
            family: all.family.filter(|_| spec.family != default_family()),
            registers: all.registers.filter(|_| all.registers != defaults.registers),
            mlp_width: all.mlp_width.filter(|_| all.mlp_width != defaults.mlp_width),
            gated: all.gated.filter(|_| all.gated != defaults.gated),
            activation: all.activation.filter(|_| all.activation != defaults.activation),
            biases: all.biases.filter(|biases| Some(biases) != defaults.biases.as_ref()),
            rope_theta: all.rope_theta.filter(|_| all.rope_theta != defaults.rope_theta),
            ..all
        }
    }

    fn into_spec(self) -> Result<EncoderSpec, String> {
        let family = self.family.as_deref().map_or(Ok(default_family()), family_named)?;
        let defaults = family.defaults();
        let spec = EncoderSpec {
            family,
            dim: self.dim,
            depth: self.depth,
            heads: self.heads,
            patch_size: self.patch_size.unwrap_or(defaults.patch_size),
            class_tokens: self.class_tokens.unwrap_or(defaults.class_tokens),
            registers: self.registers.unwrap_or(defaults.registers),
            mlp_ratio: self.mlp_ratio.unwrap_or(defaults.mlp_ratio),
            mlp_width: 0,
            gated: self.gated.unwrap_or(defaults.gated),
            activation: self.activation.unwrap_or(defaults.activation),
            biases: match self.biases {
                Some(names) => Biases::from_names(&names)?,
                None => defaults.biases,
            },
            rope_theta: self.rope_theta.unwrap_or(defaults.rope_theta),
        };
        let width = self.mlp_width.filter(|width| *width > 0);
        Ok(width.map_or(spec, |width| spec.with_hidden(width)))
    }
}

fn family_named(name: &str) -> Result<&'static dyn Family, String> {
    let known = FAMILIES.iter().find(|family| family.name() == name).copied();
    known.ok_or_else(|| {
        let known = FAMILIES.iter().map(|family| family.name());
        format!("unknown family `{name}`, expected one of {}", quoted(known))
    })
}

fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl EncoderSpec {
    /// All of its numbers by their names in configurations.
    pub(super) fn numbers(&self) -> Map<String, Value> {
        match serde_json::to_value(Numbers::complete(self)) {
            Ok(Value::Object(numbers)) => numbers,
            _ => Map::new(),
        }
    }

    /// As it is written in a configuration: a name, or an inline table of numbers.
    pub fn to_toml(&self) -> String {
        if let Some(name) = self.name() {
            return format!("\"{name}\"");
        }
        let Self { family, dim, depth, heads, patch_size, class_tokens, mlp_ratio, .. } = *self;
        let Numbers { registers, mlp_width, gated, activation, biases, rope_theta, .. } =
            Numbers::from_spec(self);
        let registers = registers.map(|count| format!(", registers = {count}")).unwrap_or_default();
        let mlp_width = mlp_width.map(|width| format!(", mlp_width = {width}")).unwrap_or_default();
        let activation = activation.map(|one| format!(", activation = \"{}\"", one.name()));
        let activation = activation.unwrap_or_default();
        let gated = gated.map(|gated| format!(", gated = {gated}")).unwrap_or_default();
        let biases = biases.map(|names| format!(", biases = {names:?}")).unwrap_or_default();
        let theta = rope_theta.map(|theta| format!(", rope_theta = {theta}")).unwrap_or_default();
        let family = match family == default_family() {
            true => String::new(),
            false => format!("family = \"{}\", ", family.name()),
        };
        format!(
            "{{ {family}dim = {dim}, depth = {depth}, heads = {heads}, patch_size = {patch_size}, \
             class_tokens = {class_tokens}{registers}, mlp_ratio = {mlp_ratio}{mlp_width}{gated}{activation}\
             {biases}{theta} }}"
        )
    }
}

impl fmt::Display for EncoderSpec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { family, dim, depth, heads, patch_size, .. } = self;
        if let Some(name) = self.name() {
            return f.write_str(name);
        }
        if *family != default_family() {
            write!(f, "{}, ", family.title())?;
        }
        write!(f, "width {dim}, depth {depth}, heads {heads}, patch {patch_size}")
    }
}

impl Serialize for EncoderSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.name() {
            Some(name) => serializer.serialize_str(name),
            None => Numbers::from_spec(self).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for EncoderSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameOrNumbers)
    }
}

struct NameOrNumbers;

impl<'de> Visitor<'de> for NameOrNumbers {
    type Value = EncoderSpec;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the name of an encoder or a table { dim, depth, heads, ... }")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<EncoderSpec, E> {
        EncoderSpec::named(name).ok_or_else(|| {
            let published = FAMILIES.iter().flat_map(|family| family.published());
            let known = quoted(published.map(|(name, _)| name));
            E::custom(format!("unknown encoder `{name}`, expected one of {known}"))
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EncoderSpec, A::Error> {
        let numbers = Numbers::deserialize(MapAccessDeserializer::new(map))?;
        numbers.into_spec().map_err(de::Error::custom)
    }
}
