//! The DINOv3 encoder: a pre-norm vision transformer (Dosovitskiy et al., 2021) with one class token, registers
//! (Darcet et al., 2024), LayerScale (Touvron et al., 2021) and rotary positions (Su et al., 2021) of its patches.

use tch::{Kind, Tensor};

use crate::encoders::encoder::{EncoderShape, Input};
use crate::encoders::family::EncoderSpec;
use crate::encoders::trunk::{Embedded, OverTrunk, Trunk};
use crate::nn::{
    BlockShape, Blocks, FrozenFormat, Init, LayerNorm, Linear, Parameters, Rotary, RotaryShape,
    gather_tokens, patchify,
};

/// Epsilon of every LayerNorm.
pub(super) const LAYER_NORM_EPS: f64 = 1e-5;

/// An encoder of any size. Fields are named as the published checkpoints' tensors.
pub(super) struct Vit {
    cls_token: Tensor,
    register_tokens: Tensor,
    patch_embed: Linear,
    trunk: Trunk,
    rotary: RotaryShape,
    /// The angles of a grid of so many rows and columns, once frozen.
    frozen: Option<([i64; 2], Rotary)>,
}

/// What fixes the angles of such an encoder's patches.
pub(super) fn rotary_shape(spec: &EncoderSpec) -> RotaryShape {
    RotaryShape {
        head_dim: (spec.dim / spec.heads.max(1)) as i64,
        theta: spec.rope_theta as f64,
        prefix_tokens: spec.prefix_tokens() as i64,
    }
}

impl Vit {
    pub(super) fn new(parameters: &mut Parameters, spec: &EncoderSpec) -> Self {
        let (dim, patch) = (spec.dim as i64, spec.patch_size as i64);
        let (registers, prefix_tokens) = (spec.registers as i64, spec.prefix_tokens() as i64);
        let block = BlockShape {
            hidden: spec.dim * spec.mlp_ratio,
            layer_scale: true,
            gated: spec.gated,
            biases: spec.biases,
            biases_apart: true,
            ..BlockShape::new(spec.dim, spec.heads, LAYER_NORM_EPS)
        };
        Self {
            cls_token: parameters.tensor("cls_token", &[1, 1, dim], Init::Normal(0.02)),
            register_tokens: parameters.tensor(
                "register_tokens",
                &[1, registers, dim],
                Init::Normal(0.02),
            ),
            patch_embed: Linear::shaped(parameters, "patch_embed.proj", &[dim, 3, patch, patch]),
            trunk: Trunk {
                blocks: Blocks::new(parameters, "blocks", &block, spec.depth),
                norm: LayerNorm::new(parameters, "norm", dim, LAYER_NORM_EPS),
                shape: EncoderShape {
                    dim,
                    depth: spec.depth,
                    class_tokens: 1,
                    prefix_tokens,
                    patch_size: patch,
                },
            },
            rotary: rotary_shape(spec),
            frozen: None,
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

    /// Class token, registers and (kept) patch tokens `[B, 1+R+K, D]`, float32 unless frozen otherwise, and the
    /// angles of the patches.
    fn embed(&self, input: &Input, compute: Kind) -> Embedded {
        let grid = self.trunk.shape.grid(&input.images);
        let patches = patchify(&input.images, self.trunk.shape.patch_size);
        let patches = match &input.keep {
            Some(keep) => gather_tokens(&patches, keep),
            None => patches,
        };
        let batch = patches.size()[0];
        let patches = self.patch_embed.forward(&patches.to_kind(compute));
        let for_all = |token: &Tensor| token.expand([batch, -1, -1], false);
        let patches = patches.to_kind(self.cls_token.kind());
        let all = [for_all(&self.cls_token), for_all(&self.register_tokens), patches];
        let rotary = match &self.frozen {
            Some((known, rotary)) if *known == grid && input.keep.is_none() => {
                rotary.to_kind(compute)
            }
            _ => {
                let kind_and_device = (compute, input.images.device());
                self.rotary.table(grid, input.keep.as_ref(), kind_and_device)
            }
        };
        Embedded { tokens: Tensor::cat(&all, 1), rotary: Some(rotary) }
    }

    fn freeze_embedding(&mut self, format: FrozenFormat, grid_size: i64) {
        let FrozenFormat { compute, residual, .. } = format;
        let (grid, device) = ([grid_size, grid_size], self.cls_token.device());
        self.frozen = Some((grid, self.rotary.table(grid, None, (compute, device))));
        self.cls_token = self.cls_token.to_kind(residual);
        self.register_tokens = self.register_tokens.to_kind(residual);
        self.patch_embed.freeze(compute);
    }
}
