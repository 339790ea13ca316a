//! What somebody wants of a recipe.

use std::path::PathBuf;

use crate::config::DeviceChoice;

/// What is asked for; what is left out is chosen.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Folders, or patterns of shards.
    pub images: Vec<String>,
    /// The same, of images that k-NN measures with.
    pub held_out: Vec<String>,
    /// Weights of the teacher.
    pub teacher: String,
    /// Published names, or their ends.
    pub students: Vec<String>,
    /// Directory of the run.
    pub dir: PathBuf,
    pub epochs: Option<f64>,
    /// Images of a step.
    pub batch: Option<usize>,
    /// Pixels along each side.
    pub input_size: Option<usize>,
    pub device: DeviceChoice,
}
