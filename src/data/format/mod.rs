//! Formats of shards: what lies where in one.
//!
//! A [`ShardFormat`] lists the samples of a shard as a [`ShardIndex`]: byte ranges of their images
//! and of the [fields](FieldColumn) beside them, labels, names. [`index_shard`] chooses among
//! [`FORMATS`] by what a shard begins with. Tar files by WebDataset's rules are the first.

pub(crate) mod content;
mod formats;
mod index;
mod shard_format;
mod tar;
mod tar_members;

pub use formats::{BEGINNING_BYTES, FORMATS, index_shard};
pub use index::{FieldColumn, ShardIndex};
pub use shard_format::ShardFormat;
