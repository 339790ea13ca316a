//! The memory of batches: slots of one size, each with one owner at a time.

use std::sync::Arc;

use anyhow::Result;
use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::shared_memory::SharedMemory;

/// Slots that are not in use.
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

impl Slots {
    /// `count` slots of `bytes` bytes in memory that other processes can map.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(count: usize, bytes: usize) -> Result<Self> {
        let memory = Arc::new(SharedMemory::create(count * bytes)?);
        let free = unbounded();
        for number in 0..count {
            // The receiver lives beside.
            let _ = free.0.send(number * bytes);
        }
        Ok(Self { memory, free, bytes })
    }

    /// The memory of all slots.
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
    /// First byte in the shared memory.
    pub fn start(&self) -> usize {
        self.start
    }

    /// The first `bytes` bytes, once every worker that wrote there has said that it is done.
    ///
    /// # Panics
    /// If the slot is smaller.
    pub fn read(&self, bytes: usize) -> &[u8] {
        assert!(bytes <= self.bytes, "{bytes} bytes of a slot of {}", self.bytes);
        let range = self.start..self.start + bytes;
        // SAFETY: a slot is read as part of a finished batch, when no worker has a job in it; it is
        // given to workers again only after it was dropped.
        unsafe { self.memory.read(range) }.expect("slots lie in their memory")
    }
}

impl Slot {
    /// Fills bytes `start..start + length` with zeros: what was to come there does not come.
    ///
    /// # Panics
    /// If the slot is smaller.
    pub fn clear(&mut self, start: usize, length: usize) {
        assert!(
            start + length <= self.bytes,
            "{start} + {length} bytes of a slot of {}",
            self.bytes
        );
        let range = self.start + start..self.start + start + length;
        // SAFETY: whoever says that a sample does not come has heard so from the worker that had its
        // job, or seen it dead, so no process writes there; nobody reads a batch that is not whole.
        unsafe { self.memory.write(range) }.expect("slots lie in their memory").fill(0);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // A loader that is gone needs no memory back.
        let _ = self.home.send(self.start);
    }
}
