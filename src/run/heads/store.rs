//! Features of test windows, computed once: in memory, then on disk, each within its bound.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tch::{Device, Kind, Tensor};

use crate::native::{bytes_of, guard};

/// What is kept of an image's windows.
pub struct FeatureStore {
    folder: PathBuf,
    memory_left: u64,
    disk_left: u64,
    files: usize,
}

/// Features of some windows.
pub enum Kept {
    Memory(Tensor),
    Disk(PathBuf),
}

/// The name of the tensor in a file.
const NAME: &str = "features";

impl FeatureStore {
    /// An empty store with so many bytes of memory and disk, the latter in `folder`, which is its own.
    ///
    /// # Errors
    /// What an earlier store left there cannot be removed.
    pub fn new(folder: PathBuf, memory: u64, disk: u64) -> Result<Self> {
        let store = Self { folder, memory_left: memory, disk_left: disk, files: 0 };
        store.clear()?;
        Ok(store)
    }

    /// Keeps the maps `[N, 2D, h, w]` of each block, of which the second half of the channels is the same
    /// everywhere where `has_prefix`, in `kind`; nothing where there is no room for them.
    ///
    /// # Errors
    /// The device fails. A disk that is full is no room.
    pub fn keep(&mut self, maps: &[Tensor], has_prefix: bool, kind: Kind) -> Result<Option<Kept>> {
        let packed = guard(|| Ok(pack(maps, has_prefix).to_kind(kind).to_device(Device::Cpu)))?;
        let bytes = bytes_of(&packed);
        if bytes <= self.memory_left {
            self.memory_left -= bytes;
            return Ok(Some(Kept::Memory(packed)));
        }
        if bytes > self.disk_left {
            return Ok(None);
        }
        let path = self.folder.join(format!("{}.safetensors", self.files));
        let write = || -> Result<()> {
            std::fs::create_dir_all(&self.folder)?;
            Tensor::write_safetensors(&[(NAME, &packed)], &path)?;
            Ok(())
        };
        if let Err(error) = write() {
            tracing::warn!("features of test windows are no longer kept: {error:#}");
            self.disk_left = 0;
            let _ = std::fs::remove_file(&path);
            return Ok(None);
        }
        self.files += 1;
        self.disk_left -= bytes;
        Ok(Some(Kept::Disk(path)))
    }

    /// Removes what is on disk.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn clear(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.folder.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Kept {
    /// The maps of each block again, float32 on `device`.
    ///
    /// # Errors
    /// The file has gone.
    pub fn maps(&self, device: Device, grid: [i64; 2], has_prefix: bool) -> Result<Vec<Tensor>> {
        let packed = match self {
            Self::Memory(packed) => packed.shallow_clone(),
            Self::Disk(path) => read(path)?,
        };
        guard(|| Ok(unpack(&packed.to_device(device).to_kind(Kind::Float), grid, has_prefix)))
    }
}

fn read(path: &Path) -> Result<Tensor> {
    let context = || path.display().to_string();
    let tensors = Tensor::read_safetensors(path).with_context(context)?;
    tensors.into_iter().next().map(|(_, tensor)| tensor).with_context(context)
}

/// `[N, blocks, D·h·w + D]`, or `[N, blocks, D·h·w]` without prefix tokens.
fn pack(maps: &[Tensor], has_prefix: bool) -> Tensor {
    let one = |map: &Tensor| {
        let channels = map.size()[1];
        if !has_prefix {
            return map.flatten(1, -1);
        }
        let patches = map.narrow(1, 0, channels / 2).flatten(1, -1);
        let mean = map.narrow(1, channels / 2, channels / 2).select(3, 0).select(2, 0);
        Tensor::cat(&[patches, mean], 1)
    };
    Tensor::stack(&maps.iter().map(one).collect::<Vec<_>>(), 1)
}

fn unpack(packed: &Tensor, [rows, columns]: [i64; 2], has_prefix: bool) -> Vec<Tensor> {
    let (batch, blocks, length) = packed.size3().expect("features are [N, blocks, L]");
    let places = rows * columns;
    let one = |block: i64| {
        let all = packed.select(1, block);
        if !has_prefix {
            return all.reshape([batch, -1, rows, columns]);
        }
        let dim = length / (places + 1);
        let patches = all.narrow(1, 0, dim * places).reshape([batch, dim, rows, columns]);
        let mean = all.narrow(1, dim * places, dim).reshape([batch, dim, 1, 1]);
        Tensor::cat(&[patches, mean.expand([-1, -1, rows, columns], false)], 1)
    };
    (0..blocks).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps() -> Vec<Tensor> {
        let map = |seed: f64| {
            let patches = Tensor::arange(2 * 3 * 4, (Kind::Float, Device::Cpu)) * seed;
            let patches = patches.view([2, 3, 2, 2]);
            let mean = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3, 1, 1]) + seed;
            Tensor::cat(&[patches, mean.expand([-1, -1, 2, 2], false)], 1)
        };
        vec![map(1.0), map(2.0)]
    }

    /// Memory comes first, then the disk, then nothing; what comes back is what went in.
    #[test]
    fn features_come_back_from_wherever_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = 2 * 2 * (3 * 4 + 3) * 4;
        let mut store = FeatureStore::new(folder.path().join("f"), bytes, bytes).unwrap();
        let mut keep = || store.keep(&maps(), true, Kind::Float).unwrap();
        let (first, second, third) = (keep(), keep(), keep());
        assert!(matches!(first, Some(Kept::Memory(_))) && matches!(second, Some(Kept::Disk(_))));
        assert!(third.is_none());
        for kept in [first, second].into_iter().flatten() {
            assert_eq!(kept.maps(Device::Cpu, [2, 2], true).unwrap(), maps());
        }
        store.clear().unwrap();
        assert!(!folder.path().join("f").exists());
    }
}
