//! A file seen as memory.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use memmap2::{Advice, Mmap, UncheckedAdvice};
use rustix::io::Errno;

/// A read-only mapping of a whole file. Nothing is read before it is asked for, unless the file system maps no files.
///
/// The file must not be shortened while it is mapped: reading a page that is no longer there ends
/// the process (SIGBUS). Replacing it by a rename is harmless.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Mapped(Mmap),
    /// Where the file system maps no files.
    Read(Vec<u8>),
}

impl MappedFile {
    /// Maps `path`.
    ///
    /// # Errors
    /// The file cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
        ensure!(is_file, "{} is not a file", path.display());
        // SAFETY: the mapping is read-only, and no `str` or other type with invariants is made of
        // its bytes without a check. Another process writing to the file could still change bytes
        // under us; weights files are written once and then renamed into place.
        let content = match unsafe { Mmap::map(&file) } {
            Ok(map) => {
                // Advice only: a kernel that refuses it reads all the same.
                let _ = map.advise(Advice::Sequential);
                Content::Mapped(map)
            }
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {
                tracing::warn!(
                    "{} is read whole into memory: its file system maps no files ({error})",
                    path.display()
                );
                let bytes = std::fs::read(path);
                Content::Read(bytes.with_context(|| format!("cannot read {}", path.display()))?)
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot map {}", path.display()));
            }
        };
        Ok(Self { path: path.to_path_buf(), content })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file. Pages that are touched through it stay in memory; for large parts see
    /// [`MappedFile::visit`].
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Mapped(map) => map,
            Content::Read(bytes) => bytes,
        }
    }

    /// Shows the bytes of `range` to `look`, then gives their pages back to the system.
    pub fn visit<R>(&self, range: Range<usize>, look: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let bytes = self.bytes().get(range.clone()).with_context(|| {
            format!(
                "{} ends at byte {}, but bytes {} to {} are asked for",
                self.path.display(),
                self.bytes().len(),
                range.start,
                range.end
            )
        })?;
        let result = look(bytes);
        self.give_back(range);
        Ok(result)
    }

    /// Drops the pages of `range` from this process's memory.
    fn give_back(&self, range: Range<usize>) {
        let Content::Mapped(map) = &self.content else { return };
        if range.is_empty() {
            return;
        }
        // SAFETY: the pages belong to a read-only mapping of a file, so dropping them loses
        // nothing: whoever still looks at them reads the same bytes from the file again.
        let advised = unsafe {
            map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
        };
        if let Err(error) = advised {
            tracing::debug!(path = %self.path.display(), %error, "pages not given back");
        }
    }
}
