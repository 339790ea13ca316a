//! An encoder under training that sees part of each image: what students and masked autoencoders
//! have in common.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::trainee::TraineeConfig;
use crate::encoders::{Encoder, Input, RestOfBackward, Tokens};
use crate::native::upload;
use crate::nn::{DropPath, FP8_LEAST_WEIGHTS, Mask, Parameters, ProductPrecision, StochasticDepth};
use crate::train::objective::MicroBatch;

/// An encoder with its mask and its dropped paths.
pub struct MaskedEncoder {
    encoder: Box<dyn Encoder>,
    mask: Option<Mask>,
    stochastic_depth: StochasticDepth,
    recompute_blocks: usize,
    /// The random stream of this encoder's draws.
    rng_stream: u64,
}

/// What is drawn for the images of a batch.
pub struct PassDraws {
    /// The patches that each image keeps `[B, K]`, or all of them.
    pub keep: Option<Tensor>,
    pub drop_path: DropPath,
}

impl MaskedEncoder {
    /// Adds the encoder's parameters for images of `grid_size` × `grid_size` patches.
    pub fn new(
        parameters: &mut Parameters,
        config: &TraineeConfig,
        grid_size: usize,
        rng_stream: u64,
    ) -> Self {
        let mut encoder = config.model.build(parameters, grid_size);
        if config.precision == ProductPrecision::Fp8 {
            encoder.train_in_fp8(FP8_LEAST_WEIGHTS);
        }
        Self {
            encoder,
            mask: config.mask(grid_size),
            stochastic_depth: config.stochastic_depth(),
            recompute_blocks: config.recompute_blocks,
            rng_stream,
        }
    }

    /// The encoder alone.
    pub fn encoder(&self) -> &dyn Encoder {
        &*self.encoder
    }

    /// Mask and dropped paths of the images of a batch.
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
        let drop_path = self.stochastic_depth.draw(seed, self.rng_stream, positions(), device)?;
        Ok(PassDraws { keep, drop_path })
    }

    /// A forward pass for training.
    pub fn forward<'a>(&'a self, input: &'a Input, compute: Kind) -> EncoderPass<'a> {
        let (tokens, rest) = match self.recompute_blocks {
            0 => (self.encoder.forward(input, compute), None),
            blocks => {
                let (tokens, rest) = self.encoder.forward_recomputed(input, compute, blocks);
                (tokens, Some(rest))
            }
        };
        let tokens = self.encoder.normalise(tokens).map(|all| all.to_kind(compute));
        EncoderPass { tokens, rest }
    }
}

/// An encoder's forward pass.
pub struct EncoderPass<'a> {
    /// After the final norm, in the kind of matrix products.
    pub tokens: Tokens,
    rest: Option<RestOfBackward<'a>>,
}

impl EncoderPass<'_> {
    /// The backward pass of a `loss` that was made of the tokens.
    ///
    /// # Panics
    /// Where libtorch fails.
    pub fn backward(self, loss: &Tensor) -> Result<()> {
        let Self { tokens, rest } = self;
        drop(tokens);
        loss.backward();
        rest.map_or(Ok(()), |rest| rest())
    }
}
