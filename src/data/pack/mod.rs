//! From a folder of images, or MNIST-style files, to shards.
//!
//! Samples are shuffled with a fixed seed, so that every shard holds a mix of the classes and the
//! same source gives the same shards. Images are read, checked and re-encoded in parallel;
//! shards are written one after the other.

mod encode;
mod folder;
pub(crate) mod idx;
#[expect(clippy::module_inception, reason = "packing itself")]
mod pack;
mod source;
mod writer;

pub use encode::Encoding;
pub use pack::{PackOptions, Packed, pack};
