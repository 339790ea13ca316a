//! One repository's folder in the cache that Python's `huggingface_hub` shares: `blobs/ETAG` are files,
//! `snapshots/COMMIT/NAME` links to them, and `refs/REVISION` the commits that revisions were when they were asked for.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::address::Address;
use super::files::{Holder, Wanted, holder, parts};
use crate::durable;
use crate::weights::CONFIG;

/// The folder of a repository, and that of its locks.
pub(super) struct Cache {
    folder: PathBuf,
    locks: PathBuf,
}

impl Cache {
    /// Of the repository of `address`, below the folder `root`.
    pub fn of(root: &Path, address: &Address) -> Self {
        let name = format!("models--{}--{}", address.owner, address.name);
        Self { folder: root.join(&name), locks: root.join(".locks").join(&name) }
    }

    /// The files of the repository at `commit`.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Where a file of this tag is kept.
    pub fn blob(&self, tag: &str) -> PathBuf {
        self.folder.join("blobs").join(tag)
    }

    /// The lock of this name.
    pub fn lock(&self, name: &str) -> PathBuf {
        self.locks.join(format!("{name}.lock"))
    }

    /// Where this program notes what commit `revision` was, and when that was asked for.
    pub fn asked(&self, revision: &str) -> PathBuf {
        self.locks.join(format!("distill-asked-{}", revision.replace('/', "--")))
    }

    /// The commit that `revision` was when it was last fetched.
    pub fn commit_of(&self, revision: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        let text = text.trim();
        (!text.is_empty() && !text.contains(['/', '.'])).then(|| text.to_string())
    }

    /// Notes that `revision` is `commit`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn note(&self, revision: &str, commit: &str) -> Result<()> {
        let path = self.folder.join("refs").join(revision);
        make_folder(&path)?;
        durable::write(&path, commit.as_bytes())
    }

    /// Whether all that is wanted of `commit` is here.
    pub fn has(&self, commit: &str, wanted: Wanted) -> bool {
        let folder = self.snapshot(commit);
        let Ok(entries) = fs::read_dir(&folder) else { return false };
        // A link whose file is gone does not count.
        let there = entries.flatten().filter(|entry| entry.path().is_file());
        let all: BTreeSet<String> =
            there.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        if wanted == Wanted::Description {
            return all.contains(CONFIG);
        }
        match holder(&all) {
            Ok(Holder::File(_)) => true,
            Ok(Holder::Index(name)) => {
                let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
                parts(&text).is_ok_and(|parts| parts.is_subset(&all))
            }
            Err(_) => false,
        }
    }

    /// Has the file `name` of `commit` be what is kept under `tag`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn link(&self, commit: &str, name: &str, tag: &str) -> Result<()> {
        let path = self.snapshot(commit).join(name);
        make_folder(&path)?;
        let depth = 2 + name.matches('/').count();
        let target = Path::new(&"../".repeat(depth)).join("blobs").join(tag);
        _ = fs::remove_file(&path);
        // A file system without links of this kind may have the other.
        symlink(target, &path)
            .or_else(|_| fs::hard_link(self.blob(tag), &path))
            .with_context(|| format!("cannot link {}", path.display()))
    }
}

/// Makes the folder that `path` is to be in.
pub(super) fn make_folder(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}
