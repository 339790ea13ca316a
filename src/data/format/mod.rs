//! Formats of shards: what lies where in one.

mod index;
mod tar;
mod tar_members;

pub use index::{NO_LABEL, ShardIndex, is_image_extension};
