//! An encoder under training that sees part of each image: what students and masked autoencoders
//! have in common.

use anyhow::Result;
use tch::{Kind, Tensor};

use crate::config::EncoderConfig;
use crate::native::upload;
use crate::nn::{DropPath, KeptInputs, Mask, Parameters, Vit, VitInput};
use crate::train::objective::MicroBatch;

/// An encoder with its mask and its dropped paths.
pub struct MaskedEncoder {
    pub vit: Vit,
    mask: Option<Mask>,
    config: EncoderConfig,
    /// Tells this encoder's draws from those of others.
    rng_stream: u64,
}

/// What is drawn for the images of a batch.
pub struct PassDraws {
    /// The patches that each image keeps `[B, K]`, or all of them.
    pub keep: Option<Tensor>,
    pub drop_path: DropPath,
}

impl PassDraws {
    /// The patches `keep` `[B, K]` are seen, and no path is dropped.
    pub fn keeping(keep: &Tensor) -> Self {
        Self { keep: Some(keep.shallow_clone()), drop_path: DropPath::None }
    }
}

impl MaskedEncoder {
    /// Adds the encoder's parameters for images of `grid_size` × `grid_size` patches.
    pub fn new(
        parameters: &mut Parameters,
        config: &EncoderConfig,
        grid_size: usize,
        rng_stream: u64,
    ) -> Self {
        let vit = Vit::new(parameters, config.model, grid_size);
        Self { vit, mask: Mask::of(config, grid_size), config: config.clone(), rng_stream }
    }

    /// Mask and dropped paths of the images of a batch.
    ///
    /// # Errors
    /// The device has no memory left.
    pub fn draw(&self, seed: u64, batch: &MicroBatch) -> Result<PassDraws> {
        let device = batch.images.device();
        let positions = || batch.positions.clone();
        let images = positions().count() as i64;
        let draw_mask = |mask: Mask| {
            let ids: Vec<i64> =
                positions().flat_map(|p| mask.draw_at(seed, self.rng_stream, p)).collect();
            upload(&ids, &[images, mask.kept() as i64], device)
        };
        let keep = self.mask.map(draw_mask).transpose()?;
        let drop_path = DropPath::draw(&self.config, seed, self.rng_stream, positions(), device)?;
        Ok(PassDraws { keep, drop_path })
    }

    /// A forward pass that gradients will come back through.
    pub fn forward<'a>(&'a self, input: &'a VitInput, compute: Kind) -> EncoderPass<'a> {
        let (tokens, kept) = match self.config.recompute_blocks {
            0 => (self.vit.forward(input, compute), None),
            blocks => {
                let (tokens, kept) = self.vit.forward_keeping_inputs(input, compute, blocks);
                (tokens, Some(kept))
            }
        };
        let tokens = self.vit.normalise(&tokens).to_kind(compute);
        EncoderPass { tokens, vit: &self.vit, input, compute, kept }
    }
}

/// An encoder's forward pass.
pub struct EncoderPass<'a> {
    /// After the final LayerNorm, class tokens first: `[B, C+K, D]`.
    pub tokens: Tensor,
    vit: &'a Vit,
    input: &'a VitInput,
    compute: Kind,
    kept: Option<KeptInputs>,
}

impl EncoderPass<'_> {
    /// The backward pass of a `loss` that was made of the tokens.
    ///
    /// # Errors
    /// libtorch's message.
    ///
    /// # Panics
    /// Where libtorch fails.
    pub fn backward(self, loss: &Tensor) -> Result<()> {
        let Self { tokens, vit, input, compute, kept } = self;
        drop(tokens);
        loss.backward();
        kept.map_or(Ok(()), |kept| vit.backward(kept, input, compute))
    }
}
