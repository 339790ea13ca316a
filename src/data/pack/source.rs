//! What is packed: sources of images, and the samples that they become.

use anyhow::Result;

/// One sample to be written: encoded bytes, their extension, and what its key ends with.
pub(super) struct Sample {
    pub(super) bytes: Vec<u8>,
    pub(super) extension: &'static str,
    pub(super) name: String,
    pub(super) label: Option<u32>,
}

/// A part of the source whose shards have a name of their own.
pub(super) trait Source: Sync {
    /// Number of images.
    fn images(&self) -> usize;

    /// The samples that image `index` becomes: one, or several tiles.
    fn samples(&self, index: usize) -> Result<Vec<Sample>>;
}
