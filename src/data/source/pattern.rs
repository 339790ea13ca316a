//! Finding shards by pattern.

use std::collections::HashSet;
use std::fmt::Display;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use glob::{MatchOptions, Pattern};
use tracing::warn;
use walkdir::{DirEntry, WalkDir};

use distill_base::ConfigError;

use super::address::{ShardAddress, path_of};
use super::bundle::Bundle;
use super::class_folder::ClassFolder;
use super::s3::bucket_and_key;

/// What the name of an index file ends with: no pattern means one of these.
pub const INDEX_SUFFIX: &str = ".distill-index";

/// Names of objects in a folder of a bucket, also of the folders below it if wanted.
pub(super) type List<'a> = &'a dyn Fn(&str, &str, bool) -> Result<Vec<String>>;

/// Names of classes in the order of their numbers, and the file that they stand in.
pub(super) type Classes<'a> = (Vec<String>, &'a Path);

/// The shards that `patterns` name: brace ranges `{000..127}` and lists `{a,b}` are spelled out,
/// then `*`, `?` and `[...]` matched against files and, with `list`, objects of S3. Sorted within
/// a pattern; a shard named twice counts once, at its first place.
///
/// # Errors
/// A [`ConfigError`] about `key` where a pattern, or one spelling of a brace pattern, matches
/// nothing: a shard that went missing must not shrink the data set silently. (A URL without
/// wildcards is not asked for here.) Otherwise, a bucket cannot be listed.
pub(super) fn expand(
    patterns: &[String],
    key: &str,
    classes: Option<Classes<'_>>,
    list: List<'_>,
) -> Result<Vec<ShardAddress>> {
    let fail = |message| ConfigError { file: PathBuf::new(), key: key.to_string(), message };
    let mut seen = HashSet::new();
    let mut shards = Vec::new();
    for pattern in patterns {
        let mut found = Vec::new();
        let count = spelling_count(pattern);
        if count > MOST_SPELLINGS {
            let message =
                format!("`{pattern}` spells {count} names, expected at most {MOST_SPELLINGS}");
            return Err(fail(message).into());
        }
        let spellings = webdataset::braceexpand(pattern)
            .map_err(|error| fail(format!("`{pattern}` is not a pattern: {error}")))?;
        for spelling in &spellings {
            let source = match spelling == pattern {
                true => format!("`{pattern}`"),
                false => format!("`{spelling}` (from `{pattern}`)"),
            };
            let shards = match ShardAddress::parse(spelling).map_err(&fail)? {
                ShardAddress::File(path) => files(&path, spelling, classes.as_ref()),
                ShardAddress::Url(url) if url.starts_with("s3://") => {
                    objects(&url, list).with_context(|| format!("{key}: {source}"))?
                }
                ShardAddress::Url(url) => page(url),
                bundle @ ShardAddress::Bundle(_) => Ok(vec![bundle]),
            };
            found.extend(shards.map_err(|problem| fail(format!("{source} {problem}")))?);
        }
        found.sort();
        shards.extend(found.into_iter().filter(|shard| seen.insert(identity(shard))));
    }
    if shards.is_empty() {
        return Err(fail("found no pattern, expected at least one path or pattern".into()).into());
    }
    Ok(shards)
}

/// Most names that one pattern may spell.
const MOST_SPELLINGS: u128 = 10_000_000;

/// How many names the brace ranges `{A..B}` of a pattern spell; lists count as one.
fn spelling_count(pattern: &str) -> u128 {
    let range = |text: &str| {
        let (first, last) = text.split_once('}')?.0.split_once("..")?;
        let (first, last) = (first.parse::<i128>().ok()?, last.parse::<i128>().ok()?);
        first.abs_diff(last).checked_add(1)
    };
    pattern.split('{').skip(1).filter_map(range).fold(1, u128::saturating_mul)
}

/// What is the same for two names of one file.
fn identity(shard: &ShardAddress) -> ShardAddress {
    match shard {
        ShardAddress::File(path) => match path.canonicalize() {
            Ok(path) => ShardAddress::File(path),
            Err(_) => shard.clone(),
        },
        ShardAddress::Url(_) | ShardAddress::Bundle(_) => shard.clone(),
    }
}

/// The shards of one spelling, or what is wrong with it.
type Found = Result<Vec<ShardAddress>, String>;

fn files(path: &Path, spelling: &str, classes: Option<&Classes<'_>>) -> Found {
    match path.metadata() {
        Ok(found) if found.is_file() => return Ok(vec![ShardAddress::File(path.to_path_buf())]),
        Ok(found) if found.is_dir() => {
            return class_folder(path, classes)
                .map_err(|error| format!("cannot be read: {error:#}"));
        }
        Ok(_) => return Err("is no file but a FIFO, a socket or a device".into()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(format!("cannot be read: {error}"));
        }
        Err(_) => {}
    }
    let found = matching(spelling)?;
    if found.is_empty() { Err("matches no file".into()) } else { Ok(found) }
}

/// The files that a pattern with wildcards matches.
fn matching(spelling: &str) -> Found {
    // As in a shell: a wildcard does not match a leading dot.
    let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
    let paths =
        glob::glob_with(spelling, options).map_err(|error| format!("is not a pattern: {error}"))?;
    let unreadable = |path: &Path, error: &dyn Display| {
        format!("reaches {}, which cannot be read: {error}", path.display())
    };
    // It would follow a loop of links until their names are too long.
    if spelling.split('/').any(|part| part == "**") {
        return matching_in_walk(spelling, options);
    }
    // A name that is not UTF-8 among those that it matches makes it panic.
    let Ok(paths) = catch_unwind(AssertUnwindSafe(|| paths.collect::<Vec<_>>())) else {
        return matching_in_walk(spelling, options);
    };
    let mut found = Vec::new();
    for path in paths {
        let path = path.map_err(|error| unreadable(error.path(), error.error()))?;
        match path.metadata() {
            Ok(file) if file.is_dir() => continue,
            // Reading a FIFO would wait without end.
            Ok(file) if !file.is_file() => return Err(no_file(&path)),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Err(unreadable(&path, &error));
            }
            Ok(_) | Err(_) => {}
        }
        let shard = ShardAddress::File(path);
        if !is_index(&shard.file_name()) {
            found.push(shard);
        }
    }
    Ok(found)
}

/// The files that a pattern matches, by a walk through the folders below its first wildcard.
fn matching_in_walk(spelling: &str, options: MatchOptions) -> Found {
    let pattern = Pattern::new(spelling).map_err(|error| format!("is not a pattern: {error}"))?;
    let options = MatchOptions { require_literal_separator: true, ..options };
    let mut found = Vec::new();
    for path in entries_around_wildcards(spelling)? {
        let shown = path.to_string_lossy();
        let shown =
            shown.strip_prefix("./").filter(|_| !spelling.starts_with("./")).unwrap_or(&shown);
        if path.is_dir() || !pattern.matches_with(shown, options) {
            continue;
        }
        if path.exists() && !path.is_file() {
            return Err(no_file(&path));
        }
        if path.to_str().is_none() {
            return Err(format!("reaches {path:?}, whose name is not UTF-8: rename it"));
        }
        let shard = ShardAddress::File(PathBuf::from(shown));
        if !is_index(&shard.file_name()) {
            found.push(shard);
        }
    }
    Ok(found)
}

/// Why what a pattern matches is no shard.
fn no_file(path: &Path) -> String {
    format!("reaches {}, which is no file but a FIFO, a socket or a device", path.display())
}

/// What stands where the names of a folder are matched with a wildcard, in order. Links that lead back to a folder
/// around them are told and left out.
fn entries_around_wildcards(spelling: &str) -> Result<Vec<PathBuf>, String> {
    let wildcard = spelling.find(['*', '?', '[']).unwrap_or(spelling.len());
    let folder = spelling[..wildcard].rfind('/').map_or("", |end| &spelling[..=end]);
    let rest: Vec<&str> = spelling[folder.len()..].split('/').collect();
    let is_deep = rest.contains(&"**");
    let names_hidden = rest.iter().any(|part| part.starts_with('.'));
    let is_hidden = |entry: &DirEntry| {
        entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".")
    };
    let walk = WalkDir::new(if folder.is_empty() { "." } else { folder })
        .max_depth(if is_deep { usize::MAX } else { rest.len() })
        .follow_links(true)
        .sort_by_file_name();
    let mut paths = Vec::new();
    for entry in walk.into_iter().filter_entry(|entry| names_hidden || !is_hidden(entry)) {
        match entry {
            Ok(entry) if entry.depth() > 0 => paths.push(entry.into_path()),
            Err(error) if error.loop_ancestor().is_some() => {
                warn!("`{spelling}`: {error}; the link is left out");
            }
            Err(error) if is_deep && is_denied(&error) => {
                return Err(format!("cannot be looked for everywhere: {error}"));
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(paths)
}

fn is_denied(error: &walkdir::Error) -> bool {
    error.io_error().is_some_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// A folder of images is one shard; its folders are classes.
fn class_folder(path: &Path, classes: Option<&Classes<'_>>) -> Result<Vec<ShardAddress>> {
    let mut folder = ClassFolder::find(path)?;
    if let Some((names, place)) = classes {
        folder = folder.numbered_by(names, place)?;
    }
    let samples = folder.samples();
    ensure!(
        !samples.is_empty(),
        "it is a folder without an image (.jpg, .jpeg, .png, .webp); for the shards in it write {}/*.tar",
        path.display()
    );
    let bundle = Bundle::new(&path.display().to_string(), &samples)?.with_classes(folder.classes);
    Ok(vec![ShardAddress::Bundle(Arc::new(bundle))])
}

fn is_index(name: &str) -> bool {
    name.ends_with(INDEX_SUFFIX)
}

fn objects(url: &str, list: List<'_>) -> Result<Found> {
    let (bucket, key) = bucket_and_key(url);
    let Some(wildcard) = key.find(['*', '?', '[']) else {
        return Ok(Ok(vec![ShardAddress::Url(url.to_string())]));
    };
    let pattern = match Pattern::new(key) {
        Ok(pattern) => pattern,
        Err(error) => return Ok(Err(format!("is not a pattern: {error}"))),
    };
    let folder = key[..wildcard].rfind('/').map_or("", |end| &key[..end]);
    let keys = list(bucket, folder, key[wildcard..].contains('/'))?;
    let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
    let matching = keys.iter().filter(|key| pattern.matches_with(key, options) && !is_index(key));
    let found: Vec<_> =
        matching.map(|key| ShardAddress::Url(format!("s3://{bucket}/{key}"))).collect();
    Ok(if found.is_empty() { Err("matches no object".into()) } else { Ok(found) })
}

fn page(url: String) -> Found {
    if path_of(&url).contains(['*', '[']) {
        return Err("has a wildcard, but files of an HTTP server cannot be listed; expected a \
                    brace range such as {000..127}"
            .into());
    }
    Ok(vec![ShardAddress::Url(url)])
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

    fn strings(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(ToString::to_string).collect()
    }

    fn expand_files(folder: &Path, patterns: &[&str]) -> Result<Vec<String>> {
        let patterns: Vec<String> =
            patterns.iter().map(|p| folder.join(p).to_str().unwrap().to_string()).collect();
        let no_list: List = &|_, _, _| panic!("files need no bucket");
        let shards = expand(&patterns, "data.shards", None, no_list)?;
        Ok(shards.iter().map(|shard| shard.file_name().into_owned()).collect())
    }

    fn expand_urls(patterns: &[&str]) -> Result<Vec<String>> {
        let list = |bucket: &str, folder: &str, deep: bool| {
            let names = match (bucket, folder, deep) {
                ("b", "", false) => ["1.tar", "0.tar", "0.tar.distill-index"].as_slice(),
                ("b", "a", false) => &["a/x-1.tar", "a/x-0.tar", "a/y.tar"],
                ("b", "a", true) => &["a/x-1.tar", "a/c/x-0.tar", "a/c/d/x-0.tar"],
                other => panic!("listed {other:?}"),
            };
            Ok(strings(names))
        };
        let shards = expand(&strings(patterns), "data.shards", None, &list)?;
        Ok(shards.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn patterns_keep_their_order_and_files_come_once() {
        let names =
            ["b-1.tar", "b-0.tar", "a-0.tar", "a-1.tar", "[x].tar", "b-0.tar.distill-index"];
        let folder = folder(&names);
        let found = |patterns: &[&str]| expand_files(folder.path(), patterns).unwrap();
        assert_eq!(found(&["b-*", "?-0.tar"]), ["b-0.tar", "b-1.tar", "a-0.tar"]);
        assert_eq!(found(&["{b,a}-{0..1}.tar"]), ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]);
        assert_eq!(found(&["[x].tar"]), ["[x].tar"], "a path that exists is no pattern");
    }

    /// Each file once, whatever links lead to it; a link to a folder around it ends the walk there.
    #[test]
    fn loops_of_links_are_followed_once() {
        let folder = folder(&["0.tar"]);
        let below = folder.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        std::fs::create_dir(folder.path().join(".hidden")).unwrap();
        for place in ["a/1.tar", "a/b/2.tar", ".hidden/3.tar"] {
            std::fs::write(folder.path().join(place), "").unwrap();
        }
        std::os::unix::fs::symlink("../..", below.join("loop")).unwrap();
        std::os::unix::fs::symlink("a", folder.path().join("again")).unwrap();
        let names = ["0.tar", "1.tar", "2.tar"];
        assert_eq!(expand_files(folder.path(), &["**/*.tar"]).unwrap(), names);
        let steps = entries_around_wildcards(folder.path().join("**/*.tar").to_str().unwrap());
        assert_eq!(
            steps.unwrap().len(),
            9,
            "a, its three files and folders, and the same of `again`, and 0.tar"
        );
        assert_eq!(expand_files(folder.path(), &["a/**/2.tar"]).unwrap(), ["2.tar"]);
        let error = expand_files(folder.path(), &["**/9.tar"]).unwrap_err();
        assert!(error.to_string().contains("matches no file"), "{error}");
    }

    #[test]
    fn what_matches_nothing_is_named() {
        let folder = folder(&["a-000.tar", "a-002.tar"]);
        let fail = |pattern: &str| {
            let error = expand_files(folder.path(), &["a-*.tar", pattern]).unwrap_err();
            let error = error.downcast::<ConfigError>().unwrap();
            assert_eq!(error.key, "data.shards");
            error.message
        };
        assert!(fail("c-*.tar").contains("c-*.tar"));
        let message = fail("a-{000..002}.tar");
        assert!(message.contains("a-001.tar"), "a missing shard of a range: {message}");
        assert!(fail("a-{0").contains("not a pattern"));
    }

    #[test]
    fn objects_are_listed_only_for_wildcards() {
        let found = |patterns: &[&str]| expand_urls(patterns).unwrap();
        assert_eq!(found(&["s3://b/?.tar*"]), ["s3://b/0.tar", "s3://b/1.tar"]);
        assert_eq!(
            found(&["s3://b/a/x-*.tar", "s3://b/a/x-{0..1}.tar"]),
            ["s3://b/a/x-0.tar", "s3://b/a/x-1.tar"]
        );
        assert_eq!(found(&["s3://b/a/*/x-0.tar"]), ["s3://b/a/c/x-0.tar"], "a star ends at /");
        assert_eq!(found(&["s3://unlisted/{0..1}.tar"]).len(), 2);
        assert_eq!(
            found(&["https://h/{1..0}.tar?a=*", "http://[::1]:8/0.tar"]),
            ["https://h/0.tar?...", "https://h/1.tar?...", "http://[::1]:8/0.tar"]
        );
        for (pattern, problem) in [
            ("s3://b/z-*.tar", "matches no object"),
            ("https://h/*.tar", "expected a brace range"),
            ("gs://b/0.tar", "is not known"),
        ] {
            let error = expand_urls(&[pattern]).unwrap_err();
            assert!(error.is::<ConfigError>() && error.to_string().contains(problem), "{error}");
        }
    }
}
