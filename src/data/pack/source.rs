//! What is packed: sources of images, and the samples that they become.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One sample to be written: encoded bytes, their extension, and what its key ends with.
pub(super) struct Sample {
    pub(super) bytes: Vec<u8>,
    pub(super) extension: &'static str,
    pub(super) name: String,
    pub(super) label: Option<u32>,
}

/// A part of the source whose shards have a name of their own.
pub(super) trait Source: Sync {
    /// Number of images.
    fn images(&self) -> usize;

    /// The samples that image `index` becomes: one, or several tiles.
    fn samples(&self, index: usize) -> Result<Vec<Sample>>;
}

/// The entries of a folder, sorted by name; hidden ones are left out.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    let hidden = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    };
    paths.retain(|path| !hidden(path));
    paths.sort();
    Ok(paths)
}
