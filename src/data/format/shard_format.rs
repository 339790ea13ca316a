//! What a format of shards is.

use anyhow::Result;

use crate::labels::Wanted;
use crate::source::ReadSeek;

use super::index::ShardIndex;

/// A format of shards: tells whether a file is one, and lists the samples in it.
///
/// Decoding needs nothing else: a sample's fields are byte ranges of the shard, read from wherever
/// that lies, so an index is all that a format has to give.
pub trait ShardFormat: Sync {
    /// What it is called in messages.
    fn name(&self) -> &'static str;

    /// Whether a shard is of this format, by its first bytes ([`super::BEGINNING_BYTES`] of them, or
    /// all of a shorter shard).
    ///
    /// # Errors
    /// It is not; what it is instead, or why it seems not to be.
    fn recognise(&self, beginning: &[u8]) -> Result<()>;

    /// The samples of `shard`, which has `length` bytes and stands at its beginning, in one pass.
    /// What is left out, and why, is in [`ShardIndex::notes`].
    ///
    /// # Errors
    /// The shard is damaged or cut off, or holds no image.
    fn index(&self, shard: &mut dyn ReadSeek, length: u64, wanted: &Wanted) -> Result<ShardIndex>;
}
