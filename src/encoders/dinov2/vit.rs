//! The DINOv2 encoder: a pre-norm vision transformer (Dosovitskiy et al., 2021) with one class token, perhaps
//! registers (Darcet et al., 2024), and LayerScale (Touvron et al., 2021).

use tch::{Kind, Tensor};

use super::spec::hidden;
use crate::encoders::encoder::{EncoderShape, Input};
use crate::encoders::family::EncoderSpec;
use crate::encoders::trunk::{Embedded, OverTrunk, Trunk, shown};
use crate::nn::{
    BlockShape, Blocks, FrozenFormat, Init, LayerNorm, Linear, Parameters, patchify,
    resize_positions, resize_positions_smoothly,
};

/// Epsilon of every LayerNorm.
pub(super) const LAYER_NORM_EPS: f64 = 1e-6;

/// An encoder of any size. Fields are named as the published checkpoints' tensors.
pub(super) struct Vit {
    cls_token: Tensor,
    register_tokens: Option<Tensor>,
    pos_embed: Tensor,
    patch_embed: Linear,
    trunk: Trunk,
}

/// Resizes positions `[1, 1+g·g, D]` for `rows` × `columns` patches: those of encoders with registers are
/// smoothed where they become fewer, as `transformers` has it.
pub(super) fn resize(
    positions: &Tensor,
    has_registers: bool,
    (rows, columns): (i64, i64),
) -> Tensor {
    match has_registers {
        true => resize_positions_smoothly(positions, 1, rows, columns),
        false => resize_positions(positions, 1, rows, columns),
    }
}

impl Vit {
    /// An encoder whose position embeddings fit a `grid_size` × `grid_size` patch grid.
    pub(super) fn new(parameters: &mut Parameters, spec: &EncoderSpec, grid_size: usize) -> Self {
        let (dim, patch) = (spec.dim as i64, spec.patch_size as i64);
        let (registers, tokens) = (spec.registers as i64, 1 + (grid_size * grid_size) as i64);
        let block = BlockShape {
            hidden: hidden(spec),
            layer_scale: true,
            gated: spec.gated,
            ..BlockShape::new(spec.dim, spec.heads, LAYER_NORM_EPS)
        };
        let positions = [1, tokens, dim];
        Self {
            cls_token: parameters.tensor("cls_token", &[1, 1, dim], Init::Normal(0.02)),
            register_tokens: (registers > 0).then(|| {
                parameters.tensor("register_tokens", &[1, registers, dim], Init::Normal(0.02))
            }),
            pos_embed: parameters.tensor("pos_embed", &positions, Init::TruncatedNormal(0.02)),
            patch_embed: Linear::shaped(parameters, "patch_embed.proj", &[dim, 3, patch, patch]),
            trunk: Trunk {
                blocks: Blocks::new(parameters, "blocks", &block, spec.depth),
                norm: LayerNorm::new(parameters, "norm", dim, LAYER_NORM_EPS),
                shape: EncoderShape {
                    dim,
                    depth: spec.depth,
                    class_tokens: 1,
                    prefix_tokens: 1 + registers,
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

    /// Class token, registers and (kept) patch tokens, all but the registers with their positions:
    /// `[B, 1+R+K, D]`, float32 unless frozen otherwise.
    fn embed(&self, input: &Input, compute: Kind) -> Embedded {
        let patch_size = self.trunk.shape.patch_size;
        let [rows, columns] = self.trunk.shape.grid(&input.images);
        let patches = patchify(&input.images, patch_size);
        let batch = patches.size()[0];
        let has_registers = self.register_tokens.is_some();
        let positions = resize(&self.pos_embed, has_registers, (rows, columns));
        let of_patches = positions.narrow(1, 1, rows * columns);
        let (patches, of_patches) = shown(patches, of_patches, input);
        let patches = self.patch_embed.forward(&patches.to_kind(compute)) + of_patches;
        let class = &self.cls_token + positions.narrow(1, 0, 1);
        let for_all = |token: &Tensor| token.expand([batch, -1, -1], false);
        let registers = self.register_tokens.as_ref().map(for_all);
        let all: Vec<_> =
            [Some(for_all(&class)), registers, Some(patches)].into_iter().flatten().collect();
        Tensor::cat(&all, 1).into()
    }

    fn freeze_embedding(&mut self, format: FrozenFormat, grid_size: i64) {
        let FrozenFormat { compute, residual, .. } = format;
        let has_registers = self.register_tokens.is_some();
        let positions = resize(&self.pos_embed, has_registers, (grid_size, grid_size));
        self.pos_embed = positions.to_kind(residual);
        self.cls_token = self.cls_token.to_kind(residual);
        self.register_tokens = self.register_tokens.take().map(|tokens| tokens.to_kind(residual));
        self.patch_embed.freeze(compute);
    }
}
