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
            return self.class_of(text).ok_or_else(|| self.refusal(text));
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
        self.class_of(&text).ok_or_else(|| self.refusal(&text))
    }

    /// A class's number, or its name where names are known.
    fn class_of(&self, text: &str) -> Option<u32> {
        let text = text.trim();
        let Some(classes) = &self.classes else { return number(text) };
        let named = classes.iter().position(|name| name == text).map(|place| place as u32);
        named.or_else(|| number(text).filter(|&number| (number as usize) < classes.len()))
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
/// or a name a line.
///
/// # Errors
/// The file cannot be read, is empty, or names a class twice.
pub fn read_classes(path: &Path) -> Result<Vec<String>> {
    let fail = || path.display().to_string();
    let bytes = std::fs::read(path).with_context(fail)?;
    let text = text_of(&bytes);
    let names: Vec<String> = match text.starts_with('[') {
        true => class_list(path, text.as_bytes())?,
        false => text.lines().map(|line| line.trim().to_string()).collect(),
    };
    ensure!(!names.is_empty(), "{}: names no class", path.display());
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("{}: names the class `{}` twice", path.display(), twice[0]);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

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
