//! Which files of a repository an encoder's weights are.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::weights::{CONFIG, MODEL, PREPROCESSOR};

/// Lists of the files that a model is split into, with what they end in.
const INDEXES: [&str; 2] = ["model.safetensors.index.json", "pytorch_model.bin.index.json"];

/// What torch saved, in the older form of such repositories.
const OLD_MODEL: &str = "pytorch_model.bin";

/// What is wanted of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// What says of which encoder the weights are.
    Description,
    /// All that an encoder is loaded from.
    Weights,
}

/// What holds the weights.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holder {
    File(String),
    /// The list of several files.
    Index(&'static str),
}

/// The files beside the weights among those of a repository.
pub(super) fn beside(all: &BTreeSet<String>, wanted: Wanted) -> impl Iterator<Item = &str> {
    let names: &[&str] = match wanted {
        Wanted::Description => &[CONFIG],
        Wanted::Weights => &[CONFIG, PREPROCESSOR],
    };
    names.iter().copied().filter(|name| all.contains(*name))
}

/// What holds the weights among the files of a repository: safetensors where there are any, whole before split, and
/// else what torch saved.
///
/// # Errors
/// None is known to, or several might.
pub(super) fn holder(all: &BTreeSet<String>) -> Result<Holder> {
    let has = |name: &&str| all.contains(*name);
    let file = |name: &str| Ok(Holder::File(name.to_string()));
    if has(&MODEL) {
        return file(MODEL);
    }
    if has(&INDEXES[0]) {
        return Ok(Holder::Index(INDEXES[0]));
    }
    let ending = |endings: &'static [&str]| {
        let ends = move |name: &&String| {
            let end = name.rsplit_once('.').map_or("", |(_, end)| end);
            endings.contains(&end)
                && !name.contains('/')
                && !name.contains("-of-")
                && !name.starts_with("optimizer")
        };
        all.iter().filter(ends).collect::<Vec<_>>()
    };
    if let [only] = ending(&["safetensors"])[..] {
        return file(only);
    }
    if has(&OLD_MODEL) {
        return file(OLD_MODEL);
    }
    if has(&INDEXES[1]) {
        return Ok(Holder::Index(INDEXES[1]));
    }
    match &ending(&["safetensors", "bin", "pth", "pt"])[..] {
        [only] => file(only),
        [] => bail!(
            "it has no weights that are read: expected {MODEL}, {} or {OLD_MODEL} among its files ({})",
            INDEXES[0],
            some_of(all)
        ),
        several => bail!(
            "it has {} files of weights: fetch the one that is meant, and name its path ({})",
            several.len(),
            several.iter().map(|name| name.as_str()).take(6).collect::<Vec<_>>().join(", ")
        ),
    }
}

/// The files that an index in `text` names.
///
/// # Errors
/// It is damaged, or names something that is no file beside it.
pub(super) fn parts(text: &str) -> Result<BTreeSet<String>> {
    let index: Value = serde_json::from_str(text)?;
    let map = index.get("weight_map").and_then(Value::as_object).context("it has no weight_map")?;
    let mut found = BTreeSet::new();
    for file in map.values() {
        let name = file.as_str().filter(|name| !name.contains('/') && !name.starts_with('.'));
        found.insert(name.with_context(|| format!("{file} is no file beside it"))?.to_string());
    }
    Ok(found)
}

fn some_of(all: &BTreeSet<String>) -> String {
    match all.is_empty() {
        true => "none".into(),
        false => all.iter().take(6).cloned().collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_form_of_the_weights_is_taken() {
        for (names, expected) in [
            (&["config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5"][..], MODEL),
            (&["pytorch_model.bin", "training_args.bin"], OLD_MODEL),
            (&["encoder.safetensors", "pytorch_model.bin"], "encoder.safetensors"),
            (&["vit.pth", "README.md"], "vit.pth"),
        ] {
            assert_eq!(holder(&all(names)).unwrap(), Holder::File(expected.into()), "{names:?}");
        }
        let split = ["model.safetensors.index.json", "model-00001-of-00002.safetensors"];
        assert_eq!(holder(&all(&split)).unwrap(), Holder::Index(INDEXES[0]));
        for (names, part) in
            [(&["README.md"][..], "README.md"), (&["a.pth", "b.pth"], "a.pth, b.pth")]
        {
            assert!(holder(&all(names)).unwrap_err().to_string().contains(part));
        }
    }

    #[test]
    fn an_index_names_files_beside_it_alone() {
        let text =
            r#"{"weight_map": {"a": "x.safetensors", "b": "y.safetensors", "c": "x.safetensors"}}"#;
        assert_eq!(parts(text).unwrap(), all(&["x.safetensors", "y.safetensors"]));
        for bad in [r#"{"weight_map": {"a": "../x"}}"#, r#"{"weight_map": {"a": 3}}"#, "{}"] {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }
}
