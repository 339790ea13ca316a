//! What is learned. An [`Objective`] turns pictures into losses and gradients; the training loop
//! in `train` knows nothing else about it.

pub mod distill;
mod loss;

use std::ops::Range;

use anyhow::Result;
use tch::Tensor;

use crate::model::Parameters;

pub use loss::{Losses, feature_losses};

/// One model under training.
pub struct Trainee {
    /// Its name in metrics, checkpoints and exports.
    pub name: String,
    /// Everything that the optimizer updates, float32.
    pub parameters: Parameters,
}

/// One forward and backward pass's worth of pictures.
pub struct MicroBatch {
    /// Normalised pictures `[B, 3, H, W]` float32 on the training device.
    pub images: Tensor,
    /// Their places in the global stream.
    pub positions: Range<u64>,
}

/// Something that several models can be trained for at once.
pub trait Objective {
    /// The models, in a fixed order.
    fn trainees(&self) -> &[Trainee];

    /// Adds `scale` times each trainee's gradient on `batch` to its parameters' gradients.
    ///
    /// Returns each trainee's losses (not scaled), still on the device.
    ///
    /// # Errors
    /// What libtorch reports, out of memory above all.
    fn accumulate(&self, batch: &MicroBatch, scale: f64) -> Result<Vec<Losses>>;
}
