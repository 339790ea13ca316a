//! The image tower of CLIP (Radford et al., 2021).

use tch::{Kind, Tensor};

use super::spec::TOWER;
use crate::encoders::class_and_patches::ClassAndPatches;
use crate::encoders::encoder::{EncoderShape, Input};
use crate::encoders::family::EncoderSpec;
use crate::encoders::trunk::{Embedded, OverTrunk, Trunk};
use crate::nn::{Blocks, FrozenFormat, Init, LayerNorm, Linear, Parameters};

/// A tower of any size.
pub(super) struct Model {
    embedding: ClassAndPatches,
    norm_pre: LayerNorm,
    /// Its norm makes the pooled vector alone, which no loss reads.
    trunk: Trunk,
}

impl Model {
    /// A tower whose positions are for a `grid_size` × `grid_size` patch grid.
    pub(super) fn new(parameters: &mut Parameters, spec: &EncoderSpec, grid_size: usize) -> Self {
        let (dim, patch, side) = (spec.dim as i64, spec.patch_size as i64, grid_size as i64);
        let patches = [dim, 3, patch, patch];
        Self {
            embedding: ClassAndPatches {
                class: vec![parameters.tensor("cls_token", &[dim], Init::Normal(0.02))],
                pos_embed: parameters.tensor(
                    "pos_embed",
                    &[1 + side * side, dim],
                    Init::TruncatedNormal(0.02),
                ),
                patch_embed: Linear::unbiased(parameters, "patch_embed.proj", &patches),
            },
            norm_pre: LayerNorm::new(parameters, "norm_pre", dim, TOWER.eps),
            trunk: Trunk {
                blocks: Blocks::new(parameters, "blocks", &TOWER.block(spec), spec.depth),
                norm: parameters
                    .untrained(|parameters| LayerNorm::new(parameters, "norm", dim, TOWER.eps)),
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

    fn embed(&self, input: &Input, compute: Kind) -> Embedded {
        let Embedded { tokens, rotary } = self.embedding.embed(&self.trunk.shape, input, compute);
        Embedded { tokens: self.norm_pre.forward(&tokens), rotary }
    }

    /// Tokens as they are.
    fn normalise(&self, tokens: &Tensor) -> Tensor {
        tokens.shallow_clone()
    }

    fn freeze_embedding(&mut self, format: FrozenFormat, grid_size: i64) {
        self.embedding.freeze(&self.trunk.shape, format, grid_size);
        self.norm_pre.freeze(format.residual);
    }
}
