//! The folders of a run's checkpoints: where they are, the newest whole one, and what is left over.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tracing::{info, warn};

use super::read::Checkpoint;
use crate::artifacts::paths;

/// Checkpoint folders of a run by step, oldest first. Whether they are whole is not looked at.
pub(super) fn list(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let root = paths::checkpoints(run);
    if !root.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&root).with_context(|| format!("cannot read {}", root.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(step) = paths::step_of_checkpoint(name) {
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
    for (step, folder) in folders.iter().rev() {
        match open_of_step(*step, folder) {
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

/// The checkpoint in `folder`, whose name says that it is of `step`.
///
/// # Errors
/// It is damaged, or a copy of another step's under this name.
fn open_of_step(step: u64, folder: &Path) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::open(folder)?;
    let own = checkpoint.manifest.step;
    ensure!(own == step, "{} holds the checkpoint of step {own}", folder.display());
    Ok(checkpoint)
}

/// Renames the checkpoints of `run` that are later than `step`: training that goes on from there
/// must neither be taken for theirs nor overwrite them.
pub fn set_aside_after(run: &Path, step: u64) -> Result<()> {
    for (_, folder) in list(run)?.into_iter().filter(|(later, _)| *later > step) {
        let aside = free_name(&folder);
        fs::rename(&folder, &aside)
            .with_context(|| format!("cannot rename {}", folder.display()))?;
        info!("the later checkpoint {} is now {}", folder.display(), aside.display());
    }
    Ok(())
}

/// Renames what lies among the checkpoints of `run` and is not one of its whole ones, given the newest that is:
/// what is later was found to be damaged, and of the rest what cannot be whole.
pub fn set_aside_damaged(run: &Path, newest: u64) -> Result<()> {
    let is_damaged =
        |(step, folder): &(u64, PathBuf)| *step > newest || !Checkpoint::looks_whole(*step, folder);
    for (_, folder) in list(run)?.into_iter().filter(is_damaged) {
        let aside = free_name(&folder);
        fs::rename(&folder, &aside)
            .with_context(|| format!("cannot rename {}", folder.display()))?;
        warn!(
            "{} is no whole checkpoint of its step: it is now {}",
            folder.display(),
            aside.display()
        );
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
pub fn remove_partial(run: &Path) -> Result<()> {
    let root = paths::checkpoints(run);
    if !root.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(&root).with_context(|| format!("cannot read {}", root.display()))? {
        let path = entry?.path();
        if paths::is_partial(&path) {
            fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}
