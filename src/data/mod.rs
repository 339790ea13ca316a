//! From shards to batches of cropped images.
//!
//! A sample's way: [`source`] finds the shards and brings their bytes, [`format`](mod@format) lists
//! what lies where in each, a [`Dataset`] says which sample stands at a position of the endless
//! stream of them, [`image`] decodes and crops it, and a [`Loader`] gathers batches from [`worker`]
//! processes. So whoever asks gets the same pixels for the same position. [`pack`] goes the other
//! way, from a folder of images to shards; [`made`] makes small data sets of its own.

pub mod config;
pub mod dataset;
pub mod format;
pub mod image;
pub mod labels;
mod loader;
pub mod made;
pub mod pack;
pub mod pairs;
mod shared_memory;
pub mod source;
pub mod worker;

pub use self::image::{CropDecoder, CropOptions, DensePixels, ImageStats};
pub use dataset::{
    Checked, Dataset, EvaluationPass, FailureCounts, IndexCache, Member, RankBatches, Sample,
    SampleLocation, Scratch, ShardProgress, curation,
};
pub use format::ShardIndex;
pub use loader::{
    Batch, Loader, LoaderMonitor, LoaderStatistics, LoaderStatus, MOST_WORKERS, WorkerActivity,
    WorkerStatus, share_cores, worker_count,
};
