//! What is handed out to workers, and what comes back.

use anyhow::Result;

use crate::image::ImageStats;

/// A sample to be made.
#[derive(Debug, Clone, Copy)]
pub struct Task {
    pub batch: u64,
    /// Place in the batch.
    pub place: usize,
    pub position: u64,
    /// First byte of its batch's slot in the shared memory.
    pub slot: usize,
}

/// The outcome of a task: a sample, or the error that ends the loader.
pub struct Done {
    pub task: Task,
    pub outcome: Result<Option<Made>>,
}

/// A sample that is in its place; without one, its image does not decode and is not replaced.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    pub label: Option<u32>,
    pub image: ImageStats,
}
