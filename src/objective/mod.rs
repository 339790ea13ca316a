//! What is learned. An [`Objective`] turns pictures into losses and gradients; the training loop
//! in `train` knows nothing else about it.

pub mod distill;
mod loss;
mod masked_encoder;
pub mod pretrain;

use std::ops::Range;

use anyhow::Result;
use tch::Tensor;

use crate::model::Parameters;

pub use loss::{Losses, feature_losses};
pub use masked_encoder::{EncoderPass, PassDraws};

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

    /// Adds `scale` times each trainee's gradient on `batch` to its parameters' gradients, telling
    /// `passes` of each pass before it begins.
    ///
    /// Returns each trainee's losses (not scaled), still on the device.
    ///
    /// # Errors
    /// What libtorch reports, out of memory above all; and the errors of `passes`.
    fn accumulate(
        &self,
        batch: &MicroBatch,
        scale: f64,
        passes: &mut dyn Passes,
    ) -> Result<Vec<Losses>>;
}

/// Who must know when a trainee's weights are used and when its gradients come.
pub trait Passes {
    /// What the trainees are to learn is about to be computed.
    ///
    /// # Errors
    /// That cannot be noted.
    fn before_targets(&mut self) -> Result<()>;

    /// The trainee of this place is about to run forward.
    ///
    /// # Errors
    /// Its weights are not to be had.
    fn before_forward(&mut self, trainee: usize) -> Result<()>;

    /// Its backward pass is about to begin.
    ///
    /// # Errors
    /// Its gradients cannot be taken.
    fn before_backward(&mut self, trainee: usize) -> Result<()>;
}

/// Nobody.
impl Passes for () {
    fn before_targets(&mut self) -> Result<()> {
        Ok(())
    }

    fn before_forward(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn before_backward(&mut self, _: usize) -> Result<()> {
        Ok(())
    }
}
