//! A data set: the images that are kept from a list of shards, found by position.
//!
//! [`IndexCache`] lists the images in each shard, [`curation`] drops those that do not qualify,
//! a catalogue numbers what is left, and an order says which one stands at a position of the
//! endless stream of samples. [`Dataset`] holds them together.

mod catalogue;
mod check;
mod class_names;
pub mod curation;
#[expect(clippy::module_inception, reason = "the data set itself")]
mod dataset;
mod evaluation;
mod failures;
mod index_cache;
mod members;
mod order;
mod ranks;
mod selection;
mod state;

pub use check::Checked;
pub use class_names::CLASSES;
pub use dataset::{Attempts, Dataset, Sample, SampleLocation, Scratch};
pub use evaluation::EvaluationPass;
pub use failures::FailureCounts;
pub use index_cache::{CachedIndex, Head, IndexCache, ShardProgress};
pub use members::Member;
pub use ranks::RankBatches;
