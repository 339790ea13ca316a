//! The plain vision transformer (Dosovitskiy et al., 2021).

use tch::{Kind, Tensor};

use crate::encoders::encoder::{EncoderShape, Input};
use crate::encoders::family::EncoderSpec;
use crate::encoders::trunk::{Embedded, OverTrunk, Trunk, shown};
use crate::nn::{
    BlockShape, Blocks, FrozenFormat, Init, LayerNorm, Linear, Parameters, patchify,
    resize_positions, sin_cos_positions,
};

/// Epsilon of every LayerNorm.
pub(super) const LAYER_NORM_EPS: f64 = 1e-12;

/// An encoder of any size. Fields are named as the original checkpoints' tensors.
pub(super) struct Model {
    cls_token: Tensor,
    pos_embed: Tensor,
    patch_embed: Linear,
    trunk: Trunk,
}

impl Model {
    /// An encoder whose position embeddings, learned or fixed, are for a `grid_size` × `grid_size` patch grid.
    pub(super) fn new(
        parameters: &mut Parameters,
        spec: &EncoderSpec,
        grid_size: usize,
        has_fixed_positions: bool,
    ) -> Self {
        let (dim, patch, side) = (spec.dim as i64, spec.patch_size as i64, grid_size as i64);
        let block = BlockShape {
            hidden: spec.dim * spec.mlp_ratio,
            biases: spec.biases,
            biases_apart: !spec.biases.query,
            ..BlockShape::new(spec.dim, spec.heads, LAYER_NORM_EPS)
        };
        let positions = [1, 1 + side * side, dim];
        Self {
            cls_token: parameters.tensor("cls_token", &[1, 1, dim], Init::Normal(0.02)),
            pos_embed: match has_fixed_positions {
                true => parameters.fixed("pos_embed", &positions, || sin_cos_positions(dim, side)),
                false => parameters.tensor("pos_embed", &positions, Init::TruncatedNormal(0.02)),
            },
            patch_embed: Linear::shaped(parameters, "patch_embed.proj", &[dim, 3, patch, patch]),
            trunk: Trunk {
                blocks: Blocks::new(parameters, "blocks", &block, spec.depth),
                norm: LayerNorm::new(parameters, "norm", dim, LAYER_NORM_EPS),
                shape: EncoderShape {
                    dim,
                    depth: spec.depth,
                    class_tokens: 1,
                    prefix_tokens: 1,
                    patch_size: patch,
                },
            },
        }
    }
}

impl OverTrunk for Model {
    fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    fn trunk_mut(&mut self) -> &mut Trunk {
        &mut self.trunk
    }

    /// Class token and (kept) patch tokens with their positions: `[B, 1+K, D]`, float32 unless frozen otherwise.
    fn embed(&self, input: &Input, compute: Kind) -> Embedded {
        let [rows, columns] = self.trunk.shape.grid(&input.images);
        let patches = patchify(&input.images, self.trunk.shape.patch_size);
        let batch = patches.size()[0];
        let positions = resize_positions(&self.pos_embed, 1, rows, columns);
        let (patches, of_patches) = shown(patches, positions.narrow(1, 1, rows * columns), input);
        let patches = self.patch_embed.forward(&patches.to_kind(compute)) + of_patches;
        let class = &self.cls_token + positions.narrow(1, 0, 1);
        Tensor::cat(&[class.expand([batch, -1, -1], false), patches], 1).into()
    }

    fn freeze_embedding(&mut self, format: FrozenFormat, grid_size: i64) {
        let FrozenFormat { compute, residual, .. } = format;
        let positions = resize_positions(&self.pos_embed, 1, grid_size, grid_size);
        self.pos_embed = positions.to_kind(residual);
        self.cls_token = self.cls_token.to_kind(residual);
        self.patch_embed.freeze(compute);
    }
}
