//! Atomic replacement of small files, and the user's cache folder.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::io::Errno;

/// Replaces `path` by a file of these bytes: written under another name, brought to the disk,
/// renamed. A reader sees the old file or the new one, never a part.
///
/// # Errors
/// The disk is full or the folder cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let write = || -> Result<()> {
        // Readable for whoever may read the folder (the umask still applies), not only for its
        // owner, which is tempfile's choice.
        let mut file = tempfile::Builder::new()
            .prefix(".write.")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(sync_folder(folder)?)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Brings the entries of `folder` to the disk. Some network and user-space file systems cannot do that with folders;
/// what was renamed there is seen all the same, and reaches the disk when they see fit.
///
/// # Errors
/// The folder cannot be opened, or its disk fails.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(error) if cannot(&error) => Ok(()),
        other => other,
    }
}

/// Whether a file system says by `error` that it has no such operation.
fn cannot(error: &io::Error) -> bool {
    let codes = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOTSUP];
    codes.iter().any(|known| error.raw_os_error() == Some(known.raw_os_error()))
}

/// The user's cache folder, for files that can be made again.
pub fn user_cache() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))
}
