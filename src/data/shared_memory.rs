//! Memory that the trainer and its worker processes map, handed out in slots. With `image/simd.rs`
//! the only file of this crate with `unsafe`.
//!
//! It has no name and lies in no folder (`memfd_create`), so nothing is left of it when the last
//! process that maps it is gone, however those ended. There is no lock or counter inside: who may
//! write where is said over sockets, so that a process killed at any moment leaves nothing half
//! done that others rely on.
//!
//! Within a process, the handles are what makes access safe: every slot has one owner, and a
//! [`SlotWriter`] lends one piece at a time. Between processes it is the protocol: a worker writes
//! only where it has a job, and the trainer touches those bytes neither before the worker's reply
//! nor, if there is none, before its death. Nothing outside this crate speaks the protocol, and
//! nothing inside hands out a range twice.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use crossbeam::channel::{Receiver, Sender, unbounded};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

/// A mapped piece of shared memory.
pub struct SharedMemory {
    file: File,
    map: MmapRaw,
}

/// The trainer's side: slots of one size that are not in use.
pub struct Slots {
    memory: Arc<SharedMemory>,
    free: (Sender<usize>, Receiver<usize>),
    bytes: usize,
}

/// Memory for one batch. Dropping it gives it back.
pub struct Slot {
    memory: Arc<SharedMemory>,
    start: usize,
    bytes: usize,
    home: Sender<usize>,
}

/// A worker's side: writes where its jobs say.
pub struct SlotWriter(SharedMemory);

impl SharedMemory {
    /// New memory of `bytes` zeros; pages are taken when they are first written.
    fn create(bytes: usize) -> Result<Self> {
        let create = || -> Result<Self> {
            let file = memfd_create("distill-batches", MemfdFlags::CLOEXEC)?;
            ftruncate(&file, bytes as u64)?;
            Self::map(file)
        };
        create().with_context(|| format!("cannot get {bytes} bytes of shared memory for batches"))
    }

    /// Maps the whole of what `file` stands for.
    fn map(file: OwnedFd) -> Result<Self> {
        let file = File::from(file);
        let map = MmapOptions::new().map_raw(&file)?;
        Ok(Self { file, map })
    }

    /// To hand on to another process.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn check(&self, range: &Range<usize>) -> Result<()> {
        ensure!(
            range.start <= range.end && range.end <= self.map.len(),
            "{range:?} is outside of {} bytes of shared memory",
            self.map.len()
        );
        Ok(())
    }
}

impl Slots {
    /// `count` slots of `bytes` bytes in memory that other processes can map.
    ///
    /// # Errors
    /// The system has no memory or no file descriptor left.
    pub fn new(count: usize, bytes: usize) -> Result<Self> {
        let memory = Arc::new(SharedMemory::create(count * bytes)?);
        let free = unbounded();
        for number in 0..count {
            // The receiver lives beside.
            let _ = free.0.send(number * bytes);
        }
        Ok(Self { memory, free, bytes })
    }

    /// The memory of all slots, for worker processes.
    pub fn memory(&self) -> Arc<SharedMemory> {
        self.memory.clone()
    }

    /// A slot, if one is free.
    pub fn take(&self) -> Option<Slot> {
        let start = self.free.1.try_recv().ok()?;
        let (memory, home) = (self.memory.clone(), self.free.0.clone());
        Some(Slot { memory, start, bytes: self.bytes, home })
    }
}

impl Slot {
    /// First byte in the shared memory, for jobs.
    pub fn start(&self) -> usize {
        self.start
    }

    /// The bytes in `range` of the slot, once every worker that wrote there has said that it is
    /// done.
    ///
    /// # Panics
    /// If the range does not lie in the slot.
    pub fn read(&self, range: Range<usize>) -> &[u8] {
        let range = self.within(range);
        // SAFETY: the range lies in this slot and so in the map, which lives as long as `self`. A
        // slot is read as part of a finished batch, when no worker has a job in it, and jobs in it
        // are given out again only after it was dropped; `clear` needs it exclusively.
        unsafe {
            std::slice::from_raw_parts(self.memory.map.as_ptr().add(range.start), range.len())
        }
    }

    /// Fills the bytes in `range` of the slot with zeros: what was to come there does not come.
    ///
    /// # Panics
    /// If the range does not lie in the slot.
    pub fn clear(&mut self, range: Range<usize>) {
        let range = self.within(range);
        let start = self.memory.map.as_mut_ptr();
        // SAFETY: the range lies in this slot and so in the map, which lives as long as `self`.
        // Whoever says that a sample does not come has heard so from the worker that had its job, or
        // seen it dead, so no process writes there; `self` is exclusive, so nothing reads there.
        unsafe { std::slice::from_raw_parts_mut(start.add(range.start), range.len()) }.fill(0);
    }

    /// A range of the slot as one of the memory.
    fn within(&self, range: Range<usize>) -> Range<usize> {
        let inside = range.start <= range.end && range.end <= self.bytes;
        assert!(inside, "{range:?} of a slot of {} bytes", self.bytes);
        self.start + range.start..self.start + range.end
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // A loader that is gone needs no memory back.
        let _ = self.home.send(self.start);
    }
}

impl SlotWriter {
    /// Maps the memory that the trainer's `file` stands for.
    pub fn map(file: OwnedFd) -> Result<Self> {
        SharedMemory::map(file).map(Self)
    }

    /// The bytes of `range` of the memory, in which this process has a job.
    ///
    /// # Errors
    /// The range does not lie in the memory.
    pub fn range(&mut self, range: Range<usize>) -> Result<&mut [u8]> {
        self.0.check(&range)?;
        let start = self.0.map.as_mut_ptr();
        // SAFETY: the range is inside the map, which lives as long as `self`, and `self` is
        // exclusive, so it is the only slice in this process. The trainer gives a place to one
        // worker at a time and does not touch it before this worker's reply, or its death.
        Ok(unsafe { std::slice::from_raw_parts_mut(start.add(range.start), range.len()) })
    }
}
