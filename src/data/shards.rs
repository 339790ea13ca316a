//! Finding tar shards by pattern.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::config::ConfigError;

use super::index_cache::INDEX_SUFFIX;

/// The files that `patterns` name: brace ranges `{000..127}` and lists `{a,b}` are spelled out,
/// then `*`, `?` and `[...]` matched. Sorted within a pattern; a file named twice counts once, at
/// its first place. `key` is the configuration key or argument that errors are blamed on.
///
/// # Errors
/// A pattern, or one spelling of a brace pattern, matches no file: a shard that went missing must
/// not shrink the data set silently.
pub fn expand_patterns(patterns: &[String], key: &str) -> Result<Vec<PathBuf>, ConfigError> {
    let fail = |message| ConfigError { file: PathBuf::new(), key: key.to_string(), message };
    let mut seen = HashSet::new();
    let mut shards = Vec::new();
    for pattern in patterns {
        let mut found = Vec::new();
        let spellings = webdataset::braceexpand(pattern)
            .map_err(|error| fail(format!("`{pattern}` is not a pattern: {error}")))?;
        for spelling in &spellings {
            found.extend(matches(spelling, pattern).map_err(&fail)?);
        }
        found.sort();
        for shard in found {
            let identity = shard.canonicalize().unwrap_or_else(|_| shard.clone());
            if seen.insert(identity) {
                shards.push(shard);
            }
        }
    }
    if shards.is_empty() {
        return Err(fail("found no pattern, expected at least one path or pattern".into()));
    }
    Ok(shards)
}

fn matches(spelling: &str, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let path = Path::new(spelling);
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let paths =
        glob::glob(spelling).map_err(|error| format!("`{pattern}` is not a pattern: {error}"))?;
    let is_index = |path: &Path| path.to_string_lossy().ends_with(INDEX_SUFFIX);
    let found: Vec<PathBuf> =
        paths.filter_map(Result::ok).filter(|path| path.is_file() && !is_index(path)).collect();
    if found.is_empty() {
        return Err(if spelling == pattern {
            format!("`{pattern}` matches no file")
        } else {
            format!("`{spelling}` (from `{pattern}`) matches no file")
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        folder
    }

    fn expand(folder: &Path, patterns: &[&str]) -> Result<Vec<String>, ConfigError> {
        let patterns: Vec<String> =
            patterns.iter().map(|p| folder.join(p).to_str().unwrap().to_string()).collect();
        let shards = expand_patterns(&patterns, "data.shards")?;
        Ok(shards.iter().map(|s| s.file_name().unwrap().to_str().unwrap().to_string()).collect())
    }

    #[test]
    fn patterns_keep_their_order_and_files_come_once() {
        let names =
            ["b-1.tar", "b-0.tar", "a-0.tar", "a-1.tar", "[x].tar", "b-0.tar.distill-index"];
        let folder = folder(&names);
        let found = |patterns: &[&str]| expand(folder.path(), patterns).unwrap();
        assert_eq!(found(&["b-*", "?-0.tar"]), ["b-0.tar", "b-1.tar", "a-0.tar"]);
        assert_eq!(found(&["{b,a}-{0..1}.tar"]), ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]);
        assert_eq!(found(&["[x].tar"]), ["[x].tar"], "a path that exists is no pattern");
    }

    #[test]
    fn what_matches_nothing_is_named() {
        let folder = folder(&["a-000.tar", "a-002.tar"]);
        let error = expand(folder.path(), &["a-*.tar", "c-*.tar"]).unwrap_err();
        assert_eq!(error.key, "data.shards");
        assert!(error.message.contains("c-*.tar"), "{error}");
        let error = expand(folder.path(), &["a-{000..002}.tar"]).unwrap_err();
        assert!(error.message.contains("a-001.tar"), "a missing shard of a range: {error}");
        let error = expand(folder.path(), &["a-{0"]).unwrap_err();
        assert!(error.message.contains("not a pattern"), "{error}");
    }
}
