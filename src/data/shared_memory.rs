//! Memory that the trainer and its worker processes map. One of the two modules with `unsafe`.
//!
//! It has no name and lies in no folder (`memfd_create`), so nothing is left of it when the last
//! process that maps it is gone, however those ended. There is no lock or counter inside: who may
//! write where is said over sockets, so that a process killed at any moment leaves nothing half
//! done that others rely on.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

/// A mapped piece of shared memory.
pub struct SharedMemory {
    file: File,
    map: MmapRaw,
}

impl SharedMemory {
    /// New memory of `bytes` zeros; pages are taken when they are first written.
    ///
    /// # Errors
    /// The system has no memory or no file descriptor left.
    pub fn create(bytes: usize) -> Result<Self> {
        let create = || -> Result<Self> {
            let file = memfd_create("distill-batches", MemfdFlags::CLOEXEC)?;
            ftruncate(&file, bytes as u64)?;
            Self::map(file)
        };
        create().with_context(|| format!("cannot get {bytes} bytes of shared memory for batches"))
    }

    /// Maps the whole of what `file` stands for.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn map(file: OwnedFd) -> Result<Self> {
        let file = File::from(file);
        let map = MmapOptions::new().map_raw(&file)?;
        Ok(Self { file, map })
    }

    /// To hand on to another process.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        self.map.len()
    }

    fn check(&self, range: &Range<usize>) -> Result<()> {
        ensure!(
            range.start <= range.end && range.end <= self.bytes(),
            "{range:?} is outside of {} bytes of shared memory",
            self.bytes()
        );
        Ok(())
    }

    /// The bytes of `range`, to be read.
    ///
    /// # Errors
    /// The range does not lie in the memory.
    ///
    /// # Safety
    /// While the slice lives, no process writes there.
    pub(super) unsafe fn read(&self, range: Range<usize>) -> Result<&[u8]> {
        self.check(&range)?;
        // SAFETY: the range is inside the map, which lives as long as `self`; the caller answers
        // for writers.
        Ok(unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(range.start), range.len()) })
    }

    /// The bytes of `range`, to be written.
    ///
    /// # Errors
    /// The range does not lie in the memory.
    ///
    /// # Safety
    /// While the slice lives, it is the only access to these bytes in any process.
    #[expect(clippy::mut_from_ref, reason = "the caller answers for there being no other access")]
    pub(super) unsafe fn write(&self, range: Range<usize>) -> Result<&mut [u8]> {
        self.check(&range)?;
        let start = self.map.as_mut_ptr();
        // SAFETY: the range is inside the map, which lives as long as `self`; the caller answers
        // for there being no other access.
        Ok(unsafe { std::slice::from_raw_parts_mut(start.add(range.start), range.len()) })
    }
}
