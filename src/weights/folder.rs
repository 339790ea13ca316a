//! Folders that are written as a whole.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::durable;

/// Has `write` fill a temporary folder beside `out`, which then takes its place. A folder that was
/// there is replaced if it holds nothing but `files`.
///
/// # Errors
/// `out` holds other files, the disk is full, or `write` fails.
pub fn replace_folder(
    out: &Path,
    (files, strangers): (&[&str], Strangers),
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    if strangers == Strangers::Refuse {
        check_replaceable(out, files)?;
    }
    let parent = parent(out);
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let folder = tempfile::Builder::new()
        .prefix(".export.")
        .permissions(Permissions::from_mode(0o777))
        .tempdir_in(parent)
        .with_context(|| format!("cannot write to {}", parent.display()))?;
    write(folder.path())?;
    if strangers == Strangers::Keep {
        bring_along(out, files, folder.path())?;
    }
    durable::sync_folder(folder.path())?;
    publish(folder, out)
}

/// What becomes of files in a replaced folder that are none of those that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strangers {
    /// It is not replaced.
    Refuse,
    /// They stay.
    Keep,
}

/// Brings what lies in `out` beside `files` into `folder`, which is to take its place.
fn bring_along(out: &Path, files: &[&str], folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(out) else { return Ok(()) };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default();
        if files.iter().any(|file| name == *file) {
            continue;
        }
        let fail = || format!("cannot keep {}", path.display());
        match path.is_dir() {
            true => fs::rename(&path, folder.join(name)).with_context(fail)?,
            // Copied, so that it is there twice rather than nowhere if anything fails.
            false => _ = fs::copy(&path, folder.join(name)).with_context(fail)?,
        }
    }
    Ok(())
}

/// The folder in which `out` is an entry.
fn parent(out: &Path) -> &Path {
    out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Refuses to replace a folder that holds anything but `files`.
fn check_replaceable(out: &Path, files: &[&str]) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    ensure!(out.is_dir(), "{} is there and is not a folder", out.display());
    let context = || format!("cannot read {}", out.display());
    for entry in fs::read_dir(out).with_context(context)? {
        let name = entry.with_context(context)?.file_name();
        ensure!(
            files.iter().any(|file| name == *file),
            "{} holds {}, which is no part of an export; choose a new folder",
            out.display(),
            Path::new(&name).display()
        );
    }
    Ok(())
}

/// Puts the finished folder in the place of `out`; if that fails, what was there stays.
fn publish(folder: tempfile::TempDir, out: &Path) -> Result<()> {
    let context = || format!("cannot put the export at {}", out.display());
    let before = tempfile::Builder::new().prefix(".replaced.").tempdir_in(parent(out))?;
    let kept = before.path().join("export");
    if out.exists() {
        fs::rename(out, &kept).with_context(context)?;
    }
    if let Err(error) = fs::rename(folder.path(), out) {
        if kept.exists() {
            fs::rename(&kept, out).with_context(context)?;
        }
        return Err(error).with_context(context);
    }
    drop(folder.keep());
    durable::sync_folder(parent(out))?;
    before.close().with_context(context)
}
