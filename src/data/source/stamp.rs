//! What tells one state of a shard from another.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What tells one state of a shard from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// Of a file: its times of modification and of change, which no program can set back. Of an object: a hash of its `ETag`, or of
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
        let times =
            [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        let times: Vec<u8> = times.iter().flat_map(|number| number.to_le_bytes()).collect();
        Ok(Self::from_object(metadata.len(), &times))
    }
}
