//! The deep narrow decoder of masked autoencoding: from the tokens of the patches that an encoder saw
//! to the pixels of all patches.

use tch::{Kind, Tensor};

use super::block::Block;
use super::drop_path::BranchPath;
use super::layers::{LayerNorm, Linear};
use super::parameters::{Init, Parameters};
use crate::config::EncoderSize;

/// A decoder for images of one size. Fields are named as the published checkpoints' tensors.
pub struct Decoder {
    decoder_embed: Linear,
    mask_token: Tensor,
    decoder_pos_embed: Tensor,
    decoder_blocks: Vec<Block>,
    decoder_norm: LayerNorm,
    decoder_pred: Linear,
    size: EncoderSize,
}

impl Decoder {
    /// A decoder of this `size` for an encoder of width `from`, over `grid` × `grid` patches.
    pub fn new(parameters: &mut Parameters, from: usize, size: EncoderSize, grid: usize) -> Self {
        let (dim, class) = (size.dim as i64, size.class_tokens as i64);
        let tokens = class + (grid * grid) as i64;
        let pixels = (size.patch_size * size.patch_size * 3) as i64;
        Self {
            decoder_embed: Linear::new(parameters, "decoder_embed", from as i64, dim),
            mask_token: parameters.tensor("mask_token", &[1, 1, dim], Init::Normal(0.02)),
            decoder_pos_embed: parameters.tensor(
                "decoder_pos_embed",
                &[1, tokens, dim],
                Init::TruncatedNormal(0.02),
            ),
            decoder_blocks: (0..size.depth)
                .map(|index| Block::named(parameters, &format!("decoder_blocks.{index}"), &size))
                .collect(),
            decoder_norm: LayerNorm::new(parameters, "decoder_norm", dim, 1e-6),
            decoder_pred: Linear::new(parameters, "decoder_pred", dim, pixels),
            size,
        }
    }

    /// What the pixels of each patch are taken for: `[B, N, p·p·3]` float32, row by row and each
    /// pixel's three channels together, in the units of [`super::NormalisedPixels`]. `tokens` are the
    /// encoder's after its final LayerNorm, `[B, C+K, D]`; `keep` `[B, K]` says which patches those
    /// are. Matrix products run in `compute`.
    pub fn forward(&self, tokens: &Tensor, keep: &Tensor, compute: Kind) -> Tensor {
        let (batch, dim) = (tokens.size()[0], self.size.dim as i64);
        let class = self.size.class_tokens as i64;
        let patches = self.decoder_pos_embed.size()[1] - class;
        let seen = self.decoder_embed.forward(&tokens.to_kind(compute)).to_kind(Kind::Float);
        let places = keep.unsqueeze(-1).expand([-1, -1, dim], false);
        let all = self.mask_token.expand([batch, patches, dim], false).scatter(
            1,
            &places,
            &seen.narrow(1, class, keep.size()[1]),
        );
        let joined = Tensor::cat(&[seen.narrow(1, 0, class), all], 1);
        let mut residual = joined + &self.decoder_pos_embed;
        for block in &self.decoder_blocks {
            let paths = [BranchPath::Whole, BranchPath::Whole];
            residual = block.forward(residual, false, compute, paths);
        }
        let patches = self.decoder_norm.forward(&residual).narrow(1, class, patches);
        self.decoder_pred.forward(&patches.to_kind(compute)).to_kind(Kind::Float)
    }
}
