//! Locks between processes of a machine, of this program or Python's.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::{Context, Result};
use tracing::info;

use super::cache::make_folder;
use crate::file_locks;

/// Holds the lock of `path` until it is dropped; waits for who has it, `what` being what is waited for.
///
/// # Errors
/// The folder cannot be written.
pub(super) fn hold(path: &Path, what: &str) -> Result<File> {
    make_folder(path)?;
    let context = || format!("cannot lock {}", path.display());
    let file = File::options().create(true).append(true).open(path).with_context(context)?;
    let locked = match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            info!("waiting for another process that fetches {what}");
            file.lock()
        }
        Err(TryLockError::Error(error)) => Err(error),
        Ok(()) => Ok(()),
    };
    match locked {
        // Without locks each process fetches for itself, and the last one's file counts.
        Err(error) if file_locks::are_missing(&error) => Ok(file),
        other => other.map(|()| file).with_context(context),
    }
}
