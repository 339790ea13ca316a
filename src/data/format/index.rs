//! What lies where in a shard: the images, one row each.

/// Stands for "no label" in [`ShardIndex::labels`].
pub const NO_LABEL: u32 = u32::MAX;

/// The images of a shard, one row each, in the order of the file.
///
/// A sample is a run of members with one key, which is WebDataset's: the path up to the first dot
/// of its last part. Its image is the first member whose extension is an image's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardIndex {
    /// Where each image's bytes begin in the shard.
    pub offsets: Vec<u64>,
    /// How many bytes each image has; `u32::MAX` where that does not fit.
    pub sizes: Vec<u32>,
    /// Class of each sample, from its `.cls` member, or [`NO_LABEL`].
    pub labels: Vec<u32>,
    pub(crate) names: Vec<u8>,
    pub(crate) name_ends: Vec<u32>,
}

/// Whether `extension` is an image's, in any case.
pub fn is_image_extension(extension: &str) -> bool {
    ["jpg", "jpeg", "png", "webp"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

impl ShardIndex {
    /// Number of images.
    pub fn rows(&self) -> usize {
        self.offsets.len()
    }

    /// Name of the image's member in the tar file.
    pub fn name(&self, row: usize) -> &str {
        let start = row.checked_sub(1).map_or(0, |before| self.name_ends[before]) as usize;
        let bytes = &self.names[start..self.name_ends[row] as usize];
        std::str::from_utf8(bytes).unwrap_or("(unreadable name)")
    }

    /// The row whose image begins at `offset`.
    pub fn row_at(&self, offset: u64) -> Option<usize> {
        self.offsets.binary_search(&offset).ok()
    }

    /// How many samples have a label.
    pub fn labelled(&self) -> usize {
        self.labels.iter().filter(|&&label| label != NO_LABEL).count()
    }

    /// Bytes of all images.
    pub fn bytes(&self) -> u64 {
        self.sizes.iter().map(|&size| u64::from(size)).sum()
    }
}
