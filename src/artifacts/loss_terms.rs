//! The terms of a loss in JSON: a key `loss_NAME` for each, beside the other keys of its object.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserializer, Serializer};

/// What a term's key begins with.
const PREFIX: &str = "loss_";

/// Writes each term under its key.
pub(super) fn serialize<S: Serializer>(
    terms: &[(String, f64)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(terms.len()))?;
    for (name, value) in terms {
        map.serialize_entry(&format!("{PREFIX}{name}"), value)?;
    }
    map.end()
}

/// Reads the keys that are terms' and passes over the others; `null` is a number that was not
/// finite.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<(String, f64)>, D::Error> {
    deserializer.deserialize_map(Terms)
}

struct Terms;

impl<'de> Visitor<'de> for Terms {
    type Value = Vec<(String, f64)>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an object with the terms of a loss")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut terms = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.strip_prefix(PREFIX) {
                Some(name) => {
                    let value: Option<f64> = map.next_value()?;
                    terms.push((name.to_string(), value.unwrap_or(f64::NAN)));
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(terms)
    }
}
