//! What lies where in a shard: its samples, one row each.

use std::ops::Range;

use crate::labels::NO_LABEL;

/// The samples of a shard, one row for each image, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardIndex {
    /// Where each image's bytes begin in the shard.
    pub offsets: Vec<u64>,
    /// How many bytes each image has; `u32::MAX` where that does not fit.
    pub sizes: Vec<u32>,
    /// Class of each sample, from its `.cls` member, or [`NO_LABEL`].
    pub labels: Vec<u32>,
    /// The fields that were asked for beside image and label, in that order.
    pub fields: Vec<FieldColumn>,
    /// What is odd about the shard, a sentence each: what looks like part of a sample and is not taken.
    pub notes: Vec<String>,
    /// Changes where bytes of some images do, though all lie as they did.
    pub content: [u8; 32],
    pub(crate) names: Vec<u8>,
    pub(crate) name_ends: Vec<u32>,
}

/// Where the bytes of a field lie, such as those of each sample's mask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldColumn {
    /// Where they begin in the shard.
    pub offsets: Vec<u64>,
    /// How many there are: 0 where a sample has no such member, `u32::MAX` where that does not fit.
    pub sizes: Vec<u32>,
}

impl FieldColumn {
    /// The bytes of the sample in `row`; empty where it has none.
    pub fn range(&self, row: usize) -> Range<u64> {
        let start = self.offsets[row];
        start..start + u64::from(self.sizes[row])
    }

    /// The sample of a row, added behind the others; `None` where it has no such field.
    pub(crate) fn push(&mut self, found: Option<(u64, u32)>) {
        let (offset, size) = found.unwrap_or_default();
        self.offsets.push(offset);
        self.sizes.push(size);
    }
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

    /// The row whose image has these bytes. Where a folder is the shard, an empty file begins where the next one
    /// does.
    pub fn row_at(&self, image: &Range<u64>) -> Option<usize> {
        let first = self.offsets.partition_point(|&offset| offset < image.start);
        let rows = first..self.rows();
        let mut there = rows.take_while(|&row| self.offsets[row] == image.start);
        there.find(|&row| u64::from(self.sizes[row]) == image.end - image.start)
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
