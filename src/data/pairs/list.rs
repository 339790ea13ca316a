//! Lists of pairs: read, made, written in their canonical form.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

/// Which part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    Train,
    Test,
}

impl Split {
    /// As configurations and lists name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// An image and its target, relative to the data set's root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    pub image: String,
    pub target: String,
}

impl Pair {
    /// Where they are.
    pub fn below(&self, root: &Path) -> [PathBuf; 2] {
        [root.join(&self.image), root.join(&self.target)]
    }
}

/// Reads the lines `IMAGE TARGET` of `path`; further columns, such as the focal length in lists of BTS
/// and ZoeDepth, and a leading `/` are left out, as are lines whose target is `None`.
///
/// # Errors
/// The file cannot be read, or a line has one column.
pub fn read(path: &Path) -> Result<Vec<Pair>> {
    let context = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(context)?;
    let mut pairs = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut columns = line.split_whitespace();
        let (Some(image), target) = (columns.next(), columns.next()) else { continue };
        let target = target.with_context(|| {
            format!(
                "{}:{}: found `{line}`, expected an image and its target",
                path.display(),
                number + 1
            )
        })?;
        if target != "None" {
            let relative = |name: &str| name.trim_start_matches('/').to_string();
            pairs.push(Pair { image: relative(image), target: relative(target) });
        }
    }
    ensure!(!pairs.is_empty(), "{}: the list names no pair", path.display());
    Ok(pairs)
}

/// SHA-256 of the list in byte order, a line `IMAGE TARGET` each.
pub fn sha256(pairs: &[Pair]) -> String {
    let mut hasher = Sha256::new();
    for Pair { image, target } in pairs {
        hasher.update(format!("{image} {target}\n"));
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Names of the entries of a folder that `keep` takes, in byte order.
///
/// # Errors
/// There is no such folder, which is named as what was looked for.
pub fn names(folder: &Path, keep: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("looked for the folder {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if keep(&name) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both forms of public lists are read; what has no target is left out.
    #[test]
    fn lists_of_every_form_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.txt");
        let read_text = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&path)
        };
        let pair = |image: &str, target: &str| Pair { image: image.into(), target: target.into() };
        let found = read_text("/a/rgb.jpg /a/depth.png 518.8\r\nb.png None 7\n\nc.png d.png\n");
        assert_eq!(found.unwrap(), [pair("a/rgb.jpg", "a/depth.png"), pair("c.png", "d.png")]);
        let error = format!("{:#}", read_text("a.png\n").unwrap_err());
        assert!(error.contains("list.txt:1: found `a.png`"), "{error}");
        assert!(read_text("\n").is_err());
    }

    /// The sum is that of `sha256sum` of the file.
    #[test]
    fn sums_are_those_of_the_canonical_file() {
        let pair = |image: &str| Pair { image: image.into(), target: "t".into() };
        assert_eq!(
            sha256(&[pair("a"), pair("b")]),
            "c676a8deb73cc6b09bfc2f382bd0cfa995c7acfeb6341266453b015e12bb0047"
        );
    }
}
