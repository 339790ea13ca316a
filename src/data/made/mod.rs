//! Small data sets for dense evaluation that no download brings: rooms that are drawn with exact depth, and
//! masks that are derived from labelled images. Both are folders of pairs, as `distill eval` takes them.

mod masks;
mod room;
mod scenes;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::syncfs;

pub use masks::{MasksOptions, masks};
pub use scenes::{ScenesOptions, scenes};

/// The folders of the two splits.
const SPLITS: [&str; 2] = ["train", "test"];

/// Has `write` fill a folder that becomes `out` when it is whole.
///
/// # Errors
/// There is something at `out`, or those of `write`.
fn make_folder(out: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    ensure!(
        !out.exists(),
        "{} exists; name another folder, or delete that one first",
        out.display()
    );
    let mut partial = out.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    if partial.exists() {
        fs::remove_dir_all(&partial)
            .with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    if let Err(error) = write(&partial) {
        // Otherwise the next attempt does.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    // Many small files: all of them at once.
    syncfs(fs::File::open(&partial)?)?;
    fs::rename(&partial, out).with_context(|| format!("cannot make {}", out.display()))
}

/// The folder `name` of a split, made.
fn folder_of(root: &Path, split: usize, name: &str) -> Result<PathBuf> {
    let folder = root.join(SPLITS[split]).join(name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// The file of a pair's image or target.
fn file_of(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{number:06}.png"))
}
