//! From tar shards to batches of cropped pictures.
//!
//! A picture's way: [`shards`] finds the tar files, [`index`] lists the pictures in each (kept by
//! [`index_cache`]), [`curation`] drops those that do not qualify, [`order`] says which one stands
//! at a position of the endless stream of samples, [`picture`] decodes it, [`crop`] cuts and
//! resizes it (a [`CropDecoder`] does both), and [`loader`] gathers batches from worker threads. [`Dataset`] holds the first
//! five together and fills one sample at a time, so that whoever asks (a thread here, a process
//! elsewhere) gets the same pixels for the same position. [`pack`] goes the other way, from a
//! folder of pictures to shards.

pub mod crop;
mod crop_decoder;
pub mod curation;
pub mod dataset;
mod failures;
pub mod index;
pub mod index_cache;
mod jpeg;
pub mod loader;
pub mod order;
pub mod pack;
pub mod picture;
pub mod resize;
pub mod shards;
mod strips;
mod weights;

pub use crop_decoder::{CropDecoder, CropOptions};
pub use dataset::{Dataset, Scratch};
pub use failures::FailureCounts;
pub use loader::{Batch, Loader};

/// Told how many shards of how many are done; called from several threads.
pub type ShardProgress<'a> = &'a (dyn Fn(usize, usize) + Sync);
