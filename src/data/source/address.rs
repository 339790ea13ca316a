//! Where a shard is.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bundle::Bundle;

/// Where a shard is: a file, or an object behind a URL.
///
/// Shown without what may be secret in a URL: a user's name and password, and the query, where
/// signed links carry their signature.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ShardAddress {
    File(PathBuf),
    /// `s3://bucket/key`, `https://...` or `http://...`.
    Url(String),
    /// Many files that are read as one shard.
    Bundle(Arc<Bundle>),
}

impl ShardAddress {
    /// What `text` names, or the scheme that is not known here.
    ///
    /// # Errors
    /// The text begins with a scheme other than `s3`, `https` and `http`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("s3" | "https" | "http", _)) => Ok(Self::Url(text.to_string())),
            Some((scheme, _)) if is_scheme(scheme) => Err(format!(
                "`{scheme}://` is not known; expected a path, `s3://`, `https://` or `http://`"
            )),
            _ => Ok(Self::File(PathBuf::from(text))),
        }
    }

    /// Last part of the path: `000.tar` of `https://host/shards/000.tar?token=1`.
    pub fn file_name(&self) -> Cow<'_, str> {
        match self {
            Self::File(path) => path.file_name().unwrap_or_default().to_string_lossy(),
            Self::Url(url) => parts(url).path.rsplit('/').next().unwrap_or_default().into(),
            Self::Bundle(bundle) => bundle.name().into(),
        }
    }

    /// Last part but one of the path: `shards` of `https://host/shards/000.tar`. Empty where
    /// there is none.
    pub fn folder_name(&self) -> Cow<'_, str> {
        match self {
            Self::File(path) => {
                let folder = path.parent().and_then(Path::file_name);
                folder.unwrap_or_default().to_string_lossy()
            }
            Self::Url(url) => parts(url).path.rsplit('/').nth(1).unwrap_or_default().into(),
            Self::Bundle(_) => "".into(),
        }
    }

    /// The address of what lies beside this under the same name with `suffix` added; none of a bundle,
    /// which lies in many places.
    pub fn with_suffix(&self, suffix: &str) -> Option<Self> {
        match self {
            Self::File(path) => {
                let mut name = path.clone().into_os_string();
                name.push(suffix);
                Some(Self::File(name.into()))
            }
            Self::Url(url) => {
                let Parts { before, path, after, .. } = parts(url);
                Some(Self::Url(format!("{before}{path}{suffix}{after}")))
            }
            Self::Bundle(_) => None,
        }
    }

    /// Whether its bytes are in files of this machine, as they are.
    pub fn is_local(&self) -> bool {
        !matches!(self, Self::Url(_))
    }

    /// The file's path, or nothing for a URL or a bundle.
    pub fn as_file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Url(_) | Self::Bundle(_) => None,
        }
    }
}

impl fmt::Display for ShardAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => f.write_str(&without_secrets(url)),
            Self::Bundle(bundle) => f.write_str(bundle.name()),
        }
    }
}

/// `url` without a user's name and password and without a query's content.
pub(super) fn without_secrets(url: &str) -> String {
    let Parts { before, path, after } = parts(url);
    let (scheme, authority) = before.split_once("://").unwrap_or(("", before));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let query = if after.starts_with('?') { "?..." } else { "" };
    format!("{scheme}://{host}{path}{query}")
}

/// The path of a URL, with its leading slash.
pub(super) fn path_of(url: &str) -> &str {
    parts(url).path
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// A URL in three: scheme and host, path, query and fragment. Keys of S3 have no query.
struct Parts<'a> {
    before: &'a str,
    path: &'a str,
    after: &'a str,
}

fn parts(url: &str) -> Parts<'_> {
    let host = url.find("://").map_or(0, |at| at + 3);
    let marks = if url.starts_with("s3://") { [].as_slice() } else { &['?', '#'] };
    let end = url[host..].find(marks).map_or(url.len(), |at| host + at);
    let path = url[host..end].find('/').map_or(end, |at| host + at);
    Parts { before: &url[..path], path: &url[path..end], after: &url[end..] }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What messages, the cache of indexes and curation ask of an address, for every kind.
    #[test]
    fn names_and_neighbours_of_every_kind() {
        for (text, shown, name, folder, beside) in [
            ("a/b/0.tar", "a/b/0.tar", "0.tar", "b", "a/b/0.tar.x"),
            ("0.tar", "0.tar", "0.tar", "", "0.tar.x"),
            (
                "s3://bucket/a?/0.tar",
                "s3://bucket/a?/0.tar",
                "0.tar",
                "a?",
                "s3://bucket/a?/0.tar.x",
            ),
            (
                "https://me:secret@host:1/a/0.tar?key=secret/0#part",
                "https://host:1/a/0.tar?...",
                "0.tar",
                "a",
                "https://me:secret@host:1/a/0.tar.x?key=secret/0#part",
            ),
            ("http://host", "http://host", "", "", "http://host.x"),
        ] {
            let address = ShardAddress::parse(text).unwrap();
            assert_eq!(address.to_string(), shown, "{text}: shown");
            assert_eq!(address.file_name(), name, "{text}: name");
            assert_eq!(address.folder_name(), folder, "{text}: folder");
            assert_eq!(address.with_suffix(".x"), ShardAddress::parse(beside).ok(), "{text}");
        }
    }

    #[test]
    fn an_unknown_scheme_is_no_path() {
        assert!(ShardAddress::parse("gs://bucket/0.tar").unwrap_err().contains("gs://"));
        assert!(matches!(ShardAddress::parse("./odd://0.tar"), Ok(ShardAddress::File(_))));
    }
}
