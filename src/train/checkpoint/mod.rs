//! Saved training states: written whole or not at all, checked when read.
//!
//! `checkpoints/step-N/` holds for each trainee `NAME.safetensors` (weights) and
//! `NAME.optimizer.safetensors` (AdamW's moments), and `manifest.json` with every file's size and
//! BLAKE3 checksum. Where several ranks wrote a share each, there are `NAME-00001-of-00004.safetensors`
//! and so on instead; a tensor that was held in parts is stored in parts, whose names say which
//! elements they are: `first_moment.pos_embed[0..64/1x8x32]`. Any number of ranks can read them.
//!
//! A checkpoint is written under another name, flushed to the disk and renamed, so a folder with
//! the final name is complete unless something damaged it later; that is what the checksums find.

mod coordination;
mod job;
mod manifest;
mod read;
mod save;
mod shares;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::config::ShuffleConfig;

pub use job::Saved;
pub use manifest::Manifest;
pub use read::Checkpoint;
pub use save::{Saver, Snapshot};

/// Which stream of samples and draws a state belongs to. Resuming is exact if it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub seed: u64,
    /// Fingerprint of the data set.
    pub dataset: String,
    pub shuffle: ShuffleConfig,
    pub global_batch_size: usize,
}

fn root(run: &Path) -> PathBuf {
    run.join("checkpoints")
}

/// The folder of the checkpoint of a step, whether it is there or not.
pub fn folder_of(run: &Path, step: u64) -> PathBuf {
    root(run).join(format!("step-{step}"))
}

/// Checkpoint folders of a run by step, oldest first. Whether they are whole is not looked at.
fn list(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let root = root(run);
    if !root.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&root).with_context(|| format!("cannot read {}", root.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The newest checkpoint of a run that is whole; damaged ones are named in a warning and passed
/// over.
///
/// # Errors
/// There are checkpoints, but every one is damaged.
pub fn newest(run: &Path) -> Result<Option<Checkpoint>> {
    let folders = list(run)?;
    let mut damage = Vec::new();
    for (_, folder) in folders.iter().rev() {
        match Checkpoint::open(folder) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(error) => {
                warn!("passing over a damaged checkpoint: {error:#}");
                damage.push(format!("{error:#}"));
            }
        }
    }
    ensure!(
        damage.is_empty(),
        "no checkpoint of {} is whole: {}; to start again from nothing, use --resume never",
        run.display(),
        damage.join("; ")
    );
    Ok(None)
}

/// Renames the checkpoints of `run` that are later than `step`: training that goes on from there
/// must neither be taken for theirs nor overwrite them.
///
/// # Errors
/// A folder cannot be renamed.
pub fn set_aside_after(run: &Path, step: u64) -> Result<()> {
    for (_, folder) in list(run)?.into_iter().filter(|(later, _)| *later > step) {
        let aside = free_name(&folder);
        fs::rename(&folder, &aside)
            .with_context(|| format!("cannot rename {}", folder.display()))?;
        info!("the later checkpoint {} is now {}", folder.display(), aside.display());
    }
    Ok(())
}

/// `path` with `.old-1` or the first higher number that is not taken.
pub fn free_name(path: &Path) -> PathBuf {
    (1..)
        .map(|number| path.with_added_extension(format!("old-{number}")))
        .find(|aside| !aside.exists())
        .expect("numbers do not end")
}

/// Removes what an interrupted save left behind.
///
/// # Errors
/// The folder cannot be read or a leftover cannot be removed.
pub fn remove_partial(run: &Path) -> Result<()> {
    let root = root(run);
    if !root.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(&root).with_context(|| format!("cannot read {}", root.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "partial") {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}
