//! [`Address`]: a repository of a hub at a revision, as configurations name it.

use std::fmt;

use anyhow::{Result, ensure};

const SCHEME: &str = "hf://";

/// What stands for the newest state of a repository.
const MAIN: &str = "main";

/// A model on a hub: `hf://owner/name`, with `@revision` behind it where it is not the newest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    pub(super) owner: String,
    pub(super) name: String,
    /// A branch, a tag or a commit; none is the newest.
    revision: Option<String>,
}

impl Address {
    /// Whether `text` means a hub, and not a file or folder.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// Reads an address.
    ///
    /// # Errors
    /// It has another form.
    pub fn parse(text: &str) -> Result<Self> {
        let rest = text.strip_prefix(SCHEME).unwrap_or(text);
        let (repository, revision) = match rest.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (rest, None),
        };
        let plain = |part: &str| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(is_plain)
        };
        let parts: Vec<&str> = repository.split('/').collect();
        let revision_is_sound =
            revision.is_none_or(|revision| revision.split('/').all(plain) && revision.len() < 200);
        ensure!(
            parts.len() == 2 && parts.iter().all(|part| plain(part)) && revision_is_sound,
            "`{text}` is not the name of a model on the hub: expected hf://OWNER/NAME or \
             hf://OWNER/NAME@REVISION, such as hf://facebook/dinov2-small"
        );
        let revision = revision.map(str::to_string);
        Ok(Self { owner: parts[0].into(), name: parts[1].into(), revision })
    }

    /// `owner/name`.
    pub(super) fn repository(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// The revision that is meant.
    pub(super) fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// Whether nothing is said of the revision.
    pub(super) fn is_newest(&self) -> bool {
        self.revision.is_none()
    }

    /// The revision where it is a commit, which never changes.
    pub(super) fn commit(&self) -> Option<&str> {
        let is_commit =
            |text: &&str| text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
        self.revision.as_deref().filter(is_commit)
    }

    /// The same repository at this revision.
    pub(super) fn at(&self, revision: &str) -> Self {
        Self { revision: Some(revision.to_string()), ..self.clone() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.owner, self.name)?;
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let plain = Address::parse("hf://facebook/dinov2-small").unwrap();
        assert_eq!(
            (plain.repository().as_str(), plain.revision()),
            ("facebook/dinov2-small", "main")
        );
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for (text, revision, is_commit) in [
            ("hf://o/n@v1.0", "v1.0", false),
            ("hf://o/n@refs/pr/3", "refs/pr/3", false),
            (&format!("hf://o/n@{commit}"), commit, true),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.revision(), address.commit().is_some()), (revision, is_commit));
            assert_eq!(address.to_string(), text);
        }
    }

    /// What would leave the cache's folder, or ask for something else, is no name.
    #[test]
    fn odd_names_are_refused() {
        for text in [
            "hf://",
            "hf://one",
            "hf://a/b/c",
            "hf://a/../b",
            "hf://../b",
            "hf://a/b@../c",
            "hf://a/b@",
            "hf://a b/c",
            "hf://a/b?x=1",
            "hf:///b",
            "hf://a/",
        ] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains("hf://OWNER/NAME"), "{text}: {error}");
        }
    }
}
