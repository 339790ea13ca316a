//! The Pixio encoder: a pre-norm vision transformer (Dosovitskiy et al., 2021) with several class
//! tokens.

use tch::{Kind, Tensor};

use crate::encoders::encoder::{EncoderShape, Input};
use crate::encoders::family::EncoderSpec;
use crate::encoders::tokens::Tokens;
use crate::encoders::trunk::{Embedded, OverTrunk, Trunk, shown};
use crate::nn::{
    BlockShape, Blocks, FrozenFormat, Init, LayerNorm, Linear, Parameters, patchify,
    resize_positions,
};

/// Epsilon of every LayerNorm.
pub(super) const LAYER_NORM_EPS: f64 = 1e-6;

/// An encoder of any size. Fields are named as the published checkpoints' tensors.
pub(super) struct Vit {
    cls_token: Tensor,
    pos_embed: Tensor,
    patch_embed: Linear,
    trunk: Trunk,
}

impl Vit {
    /// An encoder whose position embeddings fit a `grid_size` × `grid_size` patch grid.
    pub(super) fn new(parameters: &mut Parameters, spec: &EncoderSpec, grid_size: usize) -> Self {
        let (dim, class) = (spec.dim as i64, spec.class_tokens as i64);
        let tokens = class + (grid_size * grid_size) as i64;
        let patch = spec.patch_size as i64;
        let block = BlockShape {
            hidden: spec.dim * spec.mlp_ratio,
            ..BlockShape::new(spec.dim, spec.heads, LAYER_NORM_EPS)
        };
        Self {
            cls_token: parameters.tensor("cls_token", &[1, class, dim], Init::Normal(0.02)),
            pos_embed: parameters.tensor(
                "pos_embed",
                &[1, tokens, dim],
                Init::TruncatedNormal(0.02),
            ),
            patch_embed: Linear::shaped(parameters, "patch_embed.proj", &[dim, 3, patch, patch]),
            trunk: Trunk {
                blocks: Blocks::new(parameters, "blocks", &block, spec.depth),
                norm: LayerNorm::new(parameters, "norm", dim, LAYER_NORM_EPS),
                shape: EncoderShape {
                    dim,
                    depth: spec.depth,
                    class_tokens: class,
                    prefix_tokens: class,
                    patch_size: patch,
                },
            },
        }
    }
}

impl OverTrunk for Vit {
    fn trunk(&self) -> &Trunk {
        &self.trunk
    }

    fn trunk_mut(&mut self) -> &mut Trunk {
        &mut self.trunk
    }

    /// Class tokens and (kept) patch tokens with their positions: `[B, C+K, D]`, float32 unless
    /// frozen otherwise.
    fn embed(&self, input: &Input, compute: Kind) -> Embedded {
        let EncoderShape { prefix_tokens: class_tokens, patch_size, .. } = self.trunk.shape;
        let [rows, columns] = self.trunk.shape.grid(&input.images);
        let patches = patchify(&input.images, patch_size);
        let batch = patches.size()[0];
        let positions = resize_positions(&self.pos_embed, class_tokens, rows, columns);
        let patch_positions = positions.narrow(1, class_tokens, rows * columns);
        let (patches, patch_positions) = shown(patches, patch_positions, input);
        let patches = self.patch_embed.forward(&patches.to_kind(compute)) + patch_positions;
        let class = &self.cls_token + positions.narrow(1, 0, class_tokens);
        Tensor::cat(&[class.expand([batch, -1, -1], false), patches], 1).into()
    }

    /// The mean of the class tokens.
    fn pooled(&self, tokens: &Tokens) -> Tensor {
        let class = tokens.class().to_kind(Kind::Float);
        class.mean_dim([1i64].as_slice(), false, Kind::Float)
    }

    fn freeze_embedding(&mut self, format: FrozenFormat, grid_size: i64) {
        let FrozenFormat { compute, residual, .. } = format;
        let class_tokens = self.trunk.shape.prefix_tokens;
        let positions = resize_positions(&self.pos_embed, class_tokens, grid_size, grid_size);
        self.pos_embed = positions.to_kind(residual);
        self.cls_token = self.cls_token.to_kind(residual);
        self.patch_embed.freeze(compute);
    }
}
