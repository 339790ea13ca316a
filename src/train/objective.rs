//! The [`Objective`] trait: it turns images into losses and gradients, and is all that the training
//! loop knows of a task.

use std::borrow::Cow;
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
    pub terms: Vec<(Cow<'static, str>, Tensor)>,
}

impl Losses {
    /// The same values without their history.
    pub fn detach(&self) -> Self {
        let terms = self.terms.iter().map(|(name, value)| (name.clone(), value.detach()));
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

/// An objective that one or several models are trained for at once.
pub trait Objective {
    /// The models, in a fixed order.
    fn trainees(&self) -> &[Trainee];

    /// Adds `scale` times each trainee's gradient on `batch` to its parameters' gradients, and calls
    /// `hooks` before each pass.
    ///
    /// Returns each trainee's losses (not scaled), still on the device.
    ///
    /// # Errors
    /// libtorch fails, most often for lack of memory; or a hook fails.
    fn accumulate(
        &self,
        batch: &MicroBatch,
        scale: f64,
        hooks: &mut dyn StepHooks,
    ) -> Result<Vec<Losses>>;
}

/// Hooks that run before a trainee's weights are used and before its gradients come.
pub trait StepHooks {
    /// Runs before the targets are computed.
    fn before_targets(&mut self) -> Result<()>;

    /// Runs before the forward pass of the trainee of this index.
    fn before_forward(&mut self, trainee: usize) -> Result<()>;

    /// Runs before its backward pass.
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
