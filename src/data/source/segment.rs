//! Where the bytes of a shard's range lie on this machine.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// A part of a local file. Consecutive ones together are a byte range of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub path: Arc<Path>,
    pub offset: u64,
    pub length: u64,
}

/// Fills `buffer` with the bytes of `segments`.
///
/// # Errors
/// A file cannot be opened or read.
pub(super) fn read_segments(segments: &[Segment], buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    for Segment { path, offset, length } in segments {
        let start = buffer.len();
        buffer.resize(start + *length as usize, 0);
        File::open(path)?.read_exact_at(&mut buffer[start..], *offset)?;
    }
    Ok(())
}
