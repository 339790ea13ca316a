//! [`ClassAndPatches`]: what most vision transformers have before their [`Trunk`](super::trunk::Trunk).

use tch::{Kind, Tensor};

use super::encoder::{EncoderShape, Input};
use super::trunk::{Embedded, shown};
use crate::nn::{FrozenFormat, Linear, patchify, resize_positions};

/// Class tokens and a product for the patches, both with positions. Fields are named as the original checkpoints'
/// tensors where there is one of each.
pub(super) struct ClassAndPatches {
    /// Those that stand before the patches, in parts that have C tokens together: `[1, C, D]`, or `[D]` of one.
    pub class: Vec<Tensor>,
    /// `[1, C+N, D]`, or `[C+N, D]`.
    pub pos_embed: Tensor,
    pub patch_embed: Linear,
}

impl ClassAndPatches {
    /// Positions of `rows` × `columns` patches, `[1, C+rows·columns, D]`.
    fn positions(&self, class_tokens: i64, [rows, columns]: [i64; 2]) -> Tensor {
        let positions = match self.pos_embed.dim() {
            2 => self.pos_embed.unsqueeze(0),
            _ => self.pos_embed.shallow_clone(),
        };
        resize_positions(&positions, class_tokens, rows, columns)
    }

    /// Class tokens and (kept) patch tokens with their positions: `[B, C+K, D]`, float32 unless frozen otherwise.
    pub(super) fn embed(&self, shape: &EncoderShape, input: &Input, compute: Kind) -> Embedded {
        let class_tokens = shape.class_tokens;
        let grid @ [rows, columns] = shape.grid(&input.images);
        let patches = patchify(&input.images, shape.patch_size);
        let batch = patches.size()[0];
        let positions = self.positions(class_tokens, grid);
        let of_patches = positions.narrow(1, class_tokens, rows * columns);
        let (patches, of_patches) = shown(patches, of_patches, input);
        let patches = self.patch_embed.forward(&patches.to_kind(compute)) + of_patches;
        let tokens: Vec<_> =
            self.class.iter().map(|tokens| tokens.view([1, -1, shape.dim])).collect();
        let class = match &tokens[..] {
            [] => return patches.into(),
            [one] => one + positions.narrow(1, 0, class_tokens),
            several => Tensor::cat(several, 1) + positions.narrow(1, 0, class_tokens),
        };
        Tensor::cat(&[class.expand([batch, -1, -1], false), patches], 1).into()
    }

    /// Keeps every parameter in the format that it is used in, with positions for that grid.
    pub(super) fn freeze(&mut self, shape: &EncoderShape, format: FrozenFormat, grid_size: i64) {
        let FrozenFormat { compute, residual, .. } = format;
        let positions = self.positions(shape.class_tokens, [grid_size, grid_size]);
        self.pos_embed = positions.to_kind(residual);
        self.class.iter_mut().for_each(|tokens| *tokens = tokens.to_kind(residual));
        self.patch_embed.freeze(compute);
    }
}
