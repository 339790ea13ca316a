//! Host memory that a GPU writes to by itself, into which a state is copied while training goes on.

use std::thread::{self, JoinHandle};

use anyhow::Result;
use tch::{Device, Tensor};
use tracing::{info, warn};

use crate::native::{bytes_of, make_current, pinned_memory};

/// Memory is asked for in such pieces: a piece takes a tenth of a second, in which the driver may hold others up.
/// libtorch takes the next power of two of what it is asked for.
const SLAB: u64 = 1 << 28;
/// Where a tensor begins in a slab.
const ALIGNED: u64 = 64;

/// Memory for tensors of some sizes, which a thread prepares.
pub(super) struct PinnedMemory {
    preparing: Option<JoinHandle<Vec<Tensor>>>,
    slabs: Vec<Slab>,
}

struct Slab {
    /// `[bytes]` u8.
    memory: Tensor,
    used: u64,
}

impl PinnedMemory {
    /// Begins to prepare memory for tensors of so many `bytes` each, at most `limit` in all, for copies from
    /// `device`.
    pub fn prepare(bytes: &[u64], limit: u64, device: Device) -> Self {
        let sizes = slabs_for(bytes, limit);
        let body = move || {
            if let Err(error) = make_current(device) {
                warn!("no pinned memory for checkpoints: {error:#}");
                return Vec::new();
            }
            prepared(&sizes, pinned_memory)
        };
        let thread = thread::Builder::new().name("pinned memory".into()).spawn(body);
        Self { preparing: thread.ok(), slabs: Vec::new() }
    }

    /// Room for a tensor like this one; none where no room is left. Waits until the memory is prepared.
    pub fn take(&mut self, like: &Tensor) -> Option<Tensor> {
        if let Some(preparing) = self.preparing.take() {
            let memory = preparing.join().unwrap_or_default().into_iter();
            self.slabs = memory.map(|memory| Slab { memory, used: 0 }).collect();
        }
        let bytes = bytes_of(like);
        let has_room = |slab: &&mut Slab| slab.used + bytes <= slab.memory.numel() as u64;
        let slab = self.slabs.iter_mut().find(has_room)?;
        let piece = slab.memory.f_narrow(0, slab.used as i64, bytes as i64).ok()?;
        let piece = piece.f_view_dtype(like.kind()).ok()?.f_view(like.size().as_slice()).ok()?;
        slab.used = (slab.used + bytes).next_multiple_of(ALIGNED);
        Some(piece)
    }
}

/// Sizes of slabs into which tensors of so many `bytes` each go one after another, of `limit` bytes at most.
fn slabs_for(bytes: &[u64], limit: u64) -> Vec<u64> {
    let (mut sizes, mut left): (Vec<u64>, u64) = (Vec::new(), 0);
    let mut total = 0;
    for &bytes in bytes {
        let bytes = bytes.next_multiple_of(ALIGNED);
        if bytes > left {
            let size = bytes.max(SLAB);
            if total + size > limit {
                break;
            }
            sizes.push(size);
            (left, total) = (size, total + size);
        }
        left -= bytes;
    }
    sizes
}

/// The slabs, as far as there is memory.
fn prepared(sizes: &[u64], allocate: impl Fn(usize) -> Result<Tensor>) -> Vec<Tensor> {
    let mut slabs = Vec::new();
    for &size in sizes {
        match allocate(size as usize) {
            Ok(slab) => slabs.push(slab),
            Err(error) => {
                warn!(
                    "checkpoints will be copied out more slowly: no more pinned memory: {error:#}"
                );
                break;
            }
        }
    }
    let bytes: usize = slabs.iter().map(Tensor::numel).sum();
    info!("checkpoints are copied out through {:.1} GB of pinned memory", bytes as f64 / 1e9);
    slabs
}

#[cfg(test)]
mod tests {
    use anyhow::bail;
    use tch::Kind;

    use super::*;

    fn memory(bytes: usize) -> Result<Tensor> {
        Ok(Tensor::zeros([bytes as i64], (Kind::Uint8, Device::Cpu)))
    }

    /// Slabs hold what they are made for, one larger than a slab included, and no more than allowed.
    #[test]
    fn slabs_hold_the_tensors_up_to_a_limit() {
        let large = 3 * SLAB;
        assert_eq!(slabs_for(&[100, SLAB - 128, 4, large, 8], u64::MAX), [SLAB, SLAB, large, SLAB]);
        assert_eq!(slabs_for(&[100, SLAB], 2 * SLAB - 1), [SLAB]);
        assert_eq!(slabs_for(&[100], SLAB - 1), [0; 0]);
        assert_eq!(slabs_for(&[], u64::MAX), [0; 0]);
    }

    /// Tensors lie beside one another, aligned, in the memory that there is; then there is no more.
    #[test]
    fn room_is_handed_out_until_there_is_none() {
        let preparing = Some(thread::spawn(|| prepared(&[512, 128], memory)));
        let mut pinned = PinnedMemory { preparing, slabs: Vec::new() };
        let like = |count: i64, kind| Tensor::ones([count, 2], (kind, Device::Cpu));
        let first = pinned.take(&like(5, Kind::Float)).unwrap();
        let second = pinned.take(&like(16, Kind::Double)).unwrap();
        assert_eq!((first.size(), first.kind()), (vec![5, 2], Kind::Float));
        assert!(pinned.take(&like(16, Kind::Double)).is_none(), "256 bytes are nowhere left");
        let third = pinned.take(&like(16, Kind::Float)).unwrap();
        let fourth = pinned.take(&like(16, Kind::Float)).unwrap();
        let pieces = [first, second, third, fourth];
        for (number, piece) in pieces.iter().enumerate() {
            assert!((piece.data_ptr() as usize).is_multiple_of(64));
            let _ = piece.shallow_clone().fill_(number as f64);
        }
        for (number, piece) in pieces.iter().enumerate() {
            assert!(piece.eq(number as f64).all().int64_value(&[]) == 1, "pieces overlap");
        }
    }

    #[test]
    fn what_the_system_refuses_is_not_there() {
        let allocate = |bytes| if bytes > 100 { bail!("no memory") } else { memory(bytes) };
        assert_eq!(prepared(&[64, 128, 64], allocate).len(), 1);
    }
}
