//! What is looked for in a shard beside images, and where the class of a sample stands and how it is read.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Stands for "no label" where classes are numbers.
pub const NO_LABEL: u32 = u32::MAX;

/// The extension of WebDataset's class numbers.
const CLS: &str = "cls";

/// Most bytes of a member that says a class: JSON files may say much more beside.
pub const MOST_LABEL_BYTES: u64 = 1 << 20;

/// Keys of JSON files that often hold a class.
const USUAL_KEYS: [&str; 9] =
    ["label", "class", "cls", "class_id", "class_idx", "category", "category_id", "target", "y"];

/// What is looked for in a shard beside images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Extensions of members that samples carry beside their image.
    pub fields: Vec<String>,
    pub label: LabelRule,
}

/// Where the class of a sample stands: in a member of its own, or in a field of a JSON member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelRule {
    extension: String,
    /// Names of nested fields; none: the member holds nothing else.
    field: Vec<String>,
    /// Names of classes in the order of their numbers; none: classes are numbers.
    classes: Option<Arc<Vec<String>>>,
}

impl Default for LabelRule {
    fn default() -> Self {
        Self { extension: CLS.into(), field: Vec::new(), classes: None }
    }
}

impl LabelRule {
    /// From `data.label`: `cls` and other extensions, `json:FIELD`, `json:FIELD.FIELD`.
    ///
    /// # Errors
    /// It is none of these, in words.
    pub fn new(label: &str, classes: Option<Vec<String>>) -> Result<Self, String> {
        let (extension, field) = label.split_once(':').unwrap_or((label, ""));
        let extension = extension.trim_start_matches('.').to_ascii_lowercase();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_known = !extension.is_empty() && extension.chars().all(is_plain);
        if !is_known || label.contains(':') && (extension != "json" || field.is_empty()) {
            return Err(format!(
                "found `{label}`, expected the extension of a member, such as `cls`, or a field of a JSON \
                 member, such as `json:label`"
            ));
        }
        let field = field.split('.').filter(|name| !name.is_empty()).map(str::to_string).collect();
        Ok(Self { extension, field, classes: classes.map(Arc::new) })
    }

    /// The extension of the members that are read.
    pub fn extension(&self) -> &str {
        &self.extension
    }

    /// A name for indexes by this rule; none for the usual one.
    pub fn mark(&self) -> Option<String> {
        if *self == Self::default() {
            return None;
        }
        let classes = self.classes.as_deref().map(|names| names.join("\n"));
        let text = format!("{}\0{}\0{classes:?}", self.extension, self.field.join("\0"));
        Some(format!("label-{}", &blake3::hash(text.as_bytes()).to_hex()[..12]))
    }

    /// The class that a member says.
    ///
    /// # Errors
    /// It says none, in words: what it says instead, and what is expected.
    pub(crate) fn read(&self, member: &[u8]) -> Result<u32, String> {
        let text = text_of(member);
        if self.field.is_empty() {
            return self.class_of(text);
        }
        let value: Value =
            serde_json::from_str(text).map_err(|error| format!("is no JSON ({error})"))?;
        let mut at = &value;
        for name in &self.field {
            let field = self.field.join(".");
            at = at.get(name).ok_or_else(|| format!("has no field `{field}`"))?;
        }
        let text = match at {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        self.class_of(&text)
    }

    /// A class's number, or its name where names are known.
    fn class_of(&self, text: &str) -> Result<u32, String> {
        let text = text.trim();
        let Some(classes) = &self.classes else {
            return number(text).ok_or_else(|| self.refusal(text));
        };
        let named = classes.iter().position(|name| name == text).map(|place| place as u32);
        let numbered = number(text).filter(|&number| (number as usize) < classes.len());
        match (named, numbered) {
            (Some(named), Some(numbered)) if named != numbered => Err(format!(
                "is {text:?}, which is the name of class {named} and the number of class `{}`: leave \
                 data.classes out where members hold numbers",
                classes[numbered as usize]
            )),
            _ => named.or(numbered).ok_or_else(|| self.refusal(text)),
        }
    }

    fn refusal(&self, text: &str) -> String {
        let short: String = text.trim().chars().take(40).collect();
        match &self.classes {
            None => format!(
                "is {short:?}, expected a number; for names of classes, name them in order in a file of \
                 data.classes"
            ),
            Some(classes) => {
                format!("is {short:?}, which is none of the {} of data.classes", classes.len())
            }
        }
    }
}

/// What a member of another extension seems to say about a class, as `data.label` would have it.
pub(crate) fn hint(extension: &str, member: &[u8]) -> Option<String> {
    let text = text_of(member);
    if number(text).is_some() {
        return Some(extension.into());
    }
    let value: Value = serde_json::from_str(text).ok()?;
    let is_class = |value: &Value| value.is_u64() || value.is_string();
    let key = USUAL_KEYS.iter().find(|key| value.get(**key).is_some_and(is_class))?;
    (extension == "json").then(|| format!("json:{key}"))
}

/// Without the mark that some editors write at the beginning.
fn text_of(member: &[u8]) -> &str {
    std::str::from_utf8(member).unwrap_or_default().trim_start_matches('\u{feff}').trim()
}

/// A class number: digits, perhaps with `.0` behind them.
fn number(text: &str) -> Option<u32> {
    let digits = text.split_once('.').map_or(text, |(whole, rest)| {
        if !rest.is_empty() && rest.bytes().all(|byte| byte == b'0') { whole } else { text }
    });
    digits.parse().ok().filter(|&label| label != NO_LABEL)
}

/// Names of classes in the order of their numbers, as `distill data pack` writes them to `path`.
///
/// # Errors
/// It is no list of names.
pub fn class_list(path: &Path, json: &[u8]) -> Result<Vec<String>> {
    serde_json::from_slice(json)
        .with_context(|| format!("{}: is no list of classes", path.display()))
}

/// Names of classes in the order of their numbers, from a file: a JSON list, as `distill data pack` writes it,
/// a JSON object from names to numbers or from numbers to names, or a name a line.
///
/// # Errors
/// The file cannot be read, is empty, has an empty line, leaves a number out, or names a class twice.
pub fn read_classes(path: &Path) -> Result<Vec<String>> {
    let fail = || path.display().to_string();
    let bytes = std::fs::read(path).with_context(fail)?;
    let text = text_of(&bytes);
    let names: Vec<String> = match text.starts_with('[') {
        true => class_list(path, text.as_bytes())?,
        false if text.starts_with('{') => by_numbers(text).with_context(fail)?,
        false => text.lines().map(|line| line.trim().to_string()).collect(),
    };
    if let Some(place) = names.iter().position(String::is_empty) {
        bail!("{}: class {place} has no name: is there an empty line?", path.display());
    }
    ensure!(!names.is_empty(), "{}: names no class", path.display());
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("{}: names the class `{}` twice", path.display(), twice[0]);
    }
    Ok(names)
}

/// The names of an object `{"cat": 0}` or `{"0": "cat"}`, in the order of their numbers.
fn by_numbers(text: &str) -> Result<Vec<String>> {
    let object: serde_json::Map<String, Value> = serde_json::from_str(text)?;
    let entry = |(key, value): (String, Value)| match value {
        Value::Number(number) => Some((number.as_u64()?, key)),
        Value::String(name) => Some((u64::from(number(&key)?), name)),
        _ => None,
    };
    let entries: Option<Vec<_>> = object.into_iter().map(entry).collect();
    let mut entries = entries.context("expected an object from names to numbers, or back")?;
    entries.sort();
    for (place, (number, name)) in entries.iter().enumerate() {
        ensure!(
            *number == place as u64,
            "expected the numbers from 0 on, each once; `{name}` has {number}, and {place} is no class's"
        );
    }
    Ok(entries.into_iter().map(|(_, name)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every form of a list of classes gives the same names; what is none is refused.
    #[test]
    fn lists_of_classes_have_several_forms() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("classes");
        let of = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_classes(&path).map_err(|error| format!("{error:#}"))
        };
        for text in [
            "dog\ncat\n\n",
            r#"["dog", "cat"]"#,
            r#"{"cat": 1, "dog": 0}"#,
            "{\"1\": \"cat\",\n \"0\": \"dog\"}",
        ] {
            assert_eq!(of(text).unwrap(), ["dog", "cat"], "{text}");
        }
        assert!(of("dog\n\ncat").unwrap_err().contains("class 1 has no name"));
        assert!(of(r#"{"cat": 2, "dog": 0}"#).unwrap_err().contains("`cat` has 2"));
        assert!(of(r#"{"cat": [1]}"#).unwrap_err().contains("from names to numbers"));
        assert!(of("dog\ndog").unwrap_err().contains("twice"));
    }

    /// A number that is also another class's name says neither.
    #[test]
    fn names_that_are_numbers_are_not_mixed_up_with_numbers() {
        let classes = Some(&["1", "2", "10"][..]);
        assert_eq!(read("cls", classes, "0"), Ok(0));
        assert_eq!(read("cls", classes, "10"), Ok(2));
        let error = read("cls", classes, "1").unwrap_err();
        assert!(error.contains("name of class 0 and the number of class `2`"), "{error}");
        assert_eq!(read("cls", Some(&["0", "1"]), "1"), Ok(1));
    }

    fn read(label: &str, classes: Option<&[&str]>, member: &str) -> Result<u32, String> {
        let classes = classes.map(|names| names.iter().map(ToString::to_string).collect());
        LabelRule::new(label, classes).unwrap().read(member.as_bytes())
    }

    #[test]
    fn classes_are_numbers_names_or_fields() {
        assert_eq!(read("cls", None, "\u{feff}7\n"), Ok(7));
        assert_eq!(read(".TXT", None, "1.0"), Ok(1));
        assert_eq!(read("cls", Some(&["dog", "cat"]), "cat\n"), Ok(1));
        assert_eq!(read("cls", Some(&["dog", "cat"]), "0"), Ok(0));
        assert_eq!(read("json:label", None, r#"{"label": 3, "url": "…"}"#), Ok(3));
        assert_eq!(read("json:a.b", Some(&["x", "y"]), r#"{"a": {"b": "y"}}"#), Ok(1));
        assert!(read("cls", None, "cat").unwrap_err().contains("data.classes"));
        assert!(read("cls", Some(&["dog"]), "1").unwrap_err().contains("none of the 1"));
        assert!(read("json:label", None, r#"{"url": 1}"#).unwrap_err().contains("`label`"));
        assert!(read("json:label", None, "[").unwrap_err().contains("no JSON"));
        for wrong in ["", "json:", "cls:x", "a/b", ":x"] {
            assert!(LabelRule::new(wrong, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn other_rules_have_other_indexes() {
        let mark = |label, classes: Option<&[&str]>| {
            let classes = classes.map(|names| names.iter().map(ToString::to_string).collect());
            LabelRule::new(label, classes).unwrap().mark()
        };
        assert_eq!(mark("cls", None), None);
        let marks = [
            mark("txt", None),
            mark("json:a", None),
            mark("json:a.b", None),
            mark("cls", Some(&["a"])),
            mark("cls", Some(&["a", "b"])),
        ];
        let different: std::collections::BTreeSet<_> = marks.iter().flatten().collect();
        assert_eq!(different.len(), marks.len());
    }

    #[test]
    fn what_looks_like_a_class_is_seen() {
        assert_eq!(hint("txt", b"12\n").as_deref(), Some("txt"));
        assert_eq!(hint("json", br#"{"class": "cat"}"#).as_deref(), Some("json:class"));
        assert_eq!(hint("txt", b"a photo of a cat"), None);
        assert_eq!(hint("json", br#"{"caption": "a cat", "width": 3}"#), None);
    }
}
