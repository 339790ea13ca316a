//! What is learned. An [`Objective`] turns images into losses and gradients; the training loop
//! in `train` knows nothing else about it.

use std::ops::Range;

use anyhow::Result;
use tch::Tensor;

use crate::nn::Parameters;

/// One model under training.
pub struct Trainee {
    /// Its name in metrics, checkpoints and exports.
    pub name: String,
    /// Everything that the optimizer updates, float32.
    pub parameters: Parameters,
}

/// One forward and backward pass's worth of images.
pub struct MicroBatch {
    /// Normalised images `[B, 3, H, W]` float32 on the training device.
    pub images: Tensor,
    /// Their places in the global stream.
    pub positions: Range<u64>,
}

/// The loss of one trainee on one batch: scalars on the device.
pub struct Losses {
    /// What is minimised.
    pub total: Tensor,
    /// The named terms that the total is made of, before weighting, in a fixed order. A loss of
    /// one term that needs no name has none.
    pub terms: Vec<(&'static str, Tensor)>,
}

impl Losses {
    /// The same values without their history.
    pub fn detach(&self) -> Self {
        let terms = self.terms.iter().map(|(name, value)| (*name, value.detach()));
        Self { total: self.total.detach(), terms: terms.collect() }
    }

    /// The value of the term `name`, if the loss has it.
    pub fn term(&self, name: &str) -> Option<&Tensor> {
        self.terms.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// The total, then the terms.
    pub fn values(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.total).chain(self.terms.iter().map(|(_, value)| value))
    }
}

/// Something that several models can be trained for at once.
pub trait Objective {
    /// The models, in a fixed order.
    fn trainees(&self) -> &[Trainee];

    /// Adds `scale` times each trainee's gradient on `batch` to its parameters' gradients, telling
    /// `hooks` of each pass before it begins.
    ///
    /// Returns each trainee's losses (not scaled), still on the device.
    ///
    /// # Errors
    /// What libtorch reports, out of memory above all; and the errors of `hooks`.
    fn accumulate(
        &self,
        batch: &MicroBatch,
        scale: f64,
        hooks: &mut dyn StepHooks,
    ) -> Result<Vec<Losses>>;
}

/// Who must know when a trainee's weights are used and when its gradients come.
pub trait StepHooks {
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

/// No hooks.
impl StepHooks for () {
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
