//! [`ClassAndPatches`]: what Pixio's and plain vision transformers have before their [`Trunk`](super::trunk::Trunk).

use tch::{Kind, Tensor};

use super::encoder::{EncoderShape, Input};
use super::trunk::{Embedded, shown};
use crate::nn::{FrozenFormat, Linear, patchify, resize_positions};

/// Class tokens and a product for the patches, both with positions. Fields are named as the original checkpoints'
/// tensors.
pub(super) struct ClassAndPatches {
    /// `[1, C, D]`.
    pub cls_token: Tensor,
    /// `[1, C+N, D]`.
    pub pos_embed: Tensor,
    pub patch_embed: Linear,
}

impl ClassAndPatches {
    /// Class tokens and (kept) patch tokens with their positions: `[B, C+K, D]`, float32 unless frozen otherwise.
    pub(super) fn embed(&self, shape: &EncoderShape, input: &Input, compute: Kind) -> Embedded {
        let class_tokens = shape.class_tokens;
        let [rows, columns] = shape.grid(&input.images);
        let patches = patchify(&input.images, shape.patch_size);
        let batch = patches.size()[0];
        let positions = resize_positions(&self.pos_embed, class_tokens, rows, columns);
        let of_patches = positions.narrow(1, class_tokens, rows * columns);
        let (patches, of_patches) = shown(patches, of_patches, input);
        let patches = self.patch_embed.forward(&patches.to_kind(compute)) + of_patches;
        let class = &self.cls_token + positions.narrow(1, 0, class_tokens);
        Tensor::cat(&[class.expand([batch, -1, -1], false), patches], 1).into()
    }

    /// Keeps every parameter in the format that it is used in, with positions for that grid.
    pub(super) fn freeze(&mut self, shape: &EncoderShape, format: FrozenFormat, grid_size: i64) {
        let FrozenFormat { compute, residual, .. } = format;
        let class_tokens = shape.class_tokens;
        let positions = resize_positions(&self.pos_embed, class_tokens, grid_size, grid_size);
        self.pos_embed = positions.to_kind(residual);
        self.cls_token = self.cls_token.to_kind(residual);
        self.patch_embed.freeze(compute);
    }
}
