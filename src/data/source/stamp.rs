//! What tells one state of a shard from another.

use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// What tells one state of a shard from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// Of a file: its modification time in nanoseconds. Of an object: a hash of its `ETag`, or of
    /// its `Last-Modified` where it has none.
    pub version: u64,
}

impl Stamp {
    pub(super) fn from_object(size: u64, version: &[u8]) -> Self {
        let hash = blake3::hash(version);
        let version = hash.as_bytes().iter().take(8).fold(0, |sum, &b| sum << 8 | u64::from(b));
        Self { size, version }
    }

    pub(super) fn from_file(path: &Path) -> io::Result<Self> {
        let metadata = path.metadata()?;
        let modified =
            metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let version = modified.map_or(0, |age| age.as_nanos() as u64);
        Ok(Self { size: metadata.len(), version })
    }
}
