//! The deep narrow decoder of masked autoencoding: from the tokens of the patches that an encoder saw
//! to the pixels of all patches.

use tch::{Kind, Tensor};

use super::block::BlockShape;
use super::blocks::Blocks;
use super::drop_path::DropPath;
use super::layers::{LayerNorm, Linear};
use super::parameters::{Init, Parameters};
use super::taps::Taps;

/// The numbers that fix a decoder's parameters, all but the size of its position grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderShape {
    /// Width of every token.
    pub dim: usize,
    /// Number of transformer blocks.
    pub depth: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// Width of the MLP's hidden layer over `dim`.
    pub mlp_ratio: usize,
    /// Side of a square patch, in pixels.
    pub patch_size: usize,
    /// The encoder's tokens that stand before its patch tokens.
    pub prefix_tokens: usize,
}

impl std::fmt::Display for DecoderShape {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { dim, depth, heads, patch_size, .. } = self;
        write!(f, "width {dim}, depth {depth}, heads {heads}, patch {patch_size}")
    }
}

/// A decoder for images of one size. Fields are named as the published checkpoints' tensors.
pub struct Decoder {
    decoder_embed: Linear,
    mask_token: Tensor,
    decoder_pos_embed: Tensor,
    decoder_blocks: Blocks,
    decoder_norm: LayerNorm,
    decoder_pred: Linear,
    shape: DecoderShape,
}

impl Decoder {
    /// A decoder of this shape for an encoder of width `from`, over `grid_size` × `grid_size`
    /// patches.
    pub fn new(
        parameters: &mut Parameters,
        from: usize,
        shape: DecoderShape,
        grid_size: usize,
    ) -> Self {
        let (dim, hidden) = (shape.dim as i64, shape.dim * shape.mlp_ratio);
        let tokens = (shape.prefix_tokens + grid_size * grid_size) as i64;
        let pixels = (shape.patch_size * shape.patch_size * 3) as i64;
        let block = BlockShape { hidden, ..BlockShape::new(shape.dim, shape.heads, 1e-6) };
        Self {
            decoder_embed: Linear::new(parameters, "decoder_embed", from as i64, dim),
            mask_token: parameters.tensor("mask_token", &[1, 1, dim], Init::Normal(0.02)),
            decoder_pos_embed: parameters.tensor(
                "decoder_pos_embed",
                &[1, tokens, dim],
                Init::TruncatedNormal(0.02),
            ),
            decoder_blocks: Blocks::new(parameters, "decoder_blocks", &block, shape.depth),
            decoder_norm: LayerNorm::new(parameters, "decoder_norm", dim, 1e-6),
            decoder_pred: Linear::new(parameters, "decoder_pred", dim, pixels),
            shape,
        }
    }

    /// The predicted pixels of each patch: `[B, N, p·p·3]` float32, row by row and each
    /// pixel's three channels together, in the units of [`super::NormalisedPixels`]. `tokens` are the
    /// encoder's after its final LayerNorm, `[B, P+K, D]`; `keep` `[B, K]` says which patches those
    /// are. Matrix products run in `compute`.
    pub fn forward(&self, tokens: &Tensor, keep: &Tensor, compute: Kind) -> Tensor {
        let (batch, dim) = (tokens.size()[0], self.shape.dim as i64);
        let prefix = self.shape.prefix_tokens as i64;
        let patches = self.decoder_pos_embed.size()[1] - prefix;
        let seen = self.decoder_embed.forward(&tokens.to_kind(compute)).to_kind(Kind::Float);
        let places = keep.unsqueeze(-1).expand([-1, -1, dim], false);
        let all = self.mask_token.expand([batch, patches, dim], false).scatter(
            1,
            &places,
            &seen.narrow(1, prefix, keep.size()[1]),
        );
        let joined = Tensor::cat(&[seen.narrow(1, 0, prefix), all], 1);
        let embedded = joined + &self.decoder_pos_embed;
        let mut taps = Taps::default();
        let tokens =
            self.decoder_blocks.forward(embedded, None, &DropPath::None, compute, &mut taps);
        let patches = self.decoder_norm.forward(&tokens).narrow(1, prefix, patches);
        self.decoder_pred.forward(&patches.to_kind(compute)).to_kind(Kind::Float)
    }
}
