//! From tar shards to batches of cropped images.
//!
//! An image's way: [`source`] finds the shards and brings their bytes, [`index`] lists the
//! images in each (kept by [`index_cache`]), [`curation`] drops those that do not qualify,
//! [`catalogue`] numbers what is left, [`order`] says which one stands at a position of the endless
//! stream of samples, a [`CropDecoder`] decodes, crops and resizes it, and [`loader`] gathers
//! batches from [`worker`] processes. [`Dataset`] holds the first six together and finds one sample
//! at a time, so that whoever asks gets the same pixels for the same position. [`pack`] goes the
//! other way, from a folder of images to shards.

pub mod catalogue;
pub mod config;
pub mod crop;
mod crop_decoder;
pub mod curation;
pub mod dataset;
pub mod decode;
pub mod draws;
pub mod durable;
mod evaluation;
mod failures;
pub mod index;
pub mod index_cache;
mod jpeg;
pub mod loader;
pub mod order;
pub mod pack;
mod ranks;
pub mod resize;
mod selection;
pub mod shared_memory;
mod simd;
pub mod source;
mod strips;
mod tar_members;
mod transform;
mod weights;
pub mod worker;

pub use crop_decoder::{CropDecoder, CropOptions};
pub use dataset::{Dataset, Sample, Scratch};
pub use evaluation::{EvaluationPass, Member};
pub use failures::FailureCounts;
pub use loader::{Batch, Loader};
pub use ranks::RankBatches;
pub use transform::ImageStats;

/// Told how many shards of how many are done; called from several threads.
pub type ShardProgress<'a> = &'a (dyn Fn(usize, usize) + Sync);
