//! The image tower of SigLIP (Zhai et al., 2023).

use tch::{Kind, Tensor};

use super::spec::TOWER;
use crate::encoders::class_and_patches::ClassAndPatches;
use crate::encoders::encoder::{EncoderShape, Input};
use crate::encoders::family::EncoderSpec;
use crate::encoders::tokens::Tokens;
use crate::encoders::trunk::{Embedded, OverTrunk, Trunk};
use crate::nn::{AttentionPooling, Blocks, FrozenFormat, Init, LayerNorm, Linear, Parameters};

/// A tower of any size.
pub(super) struct Model {
    embedding: ClassAndPatches,
    trunk: Trunk,
    /// Stays in float32 when frozen: it runs once for each image, and only where a pooled vector is asked for.
    head: AttentionPooling,
}

impl Model {
    /// A tower whose positions are for a `grid_size` × `grid_size` patch grid.
    pub(super) fn new(parameters: &mut Parameters, spec: &EncoderSpec, grid_size: usize) -> Self {
        let (dim, patch, side) = (spec.dim as i64, spec.patch_size as i64, grid_size as i64);
        let (block, patches) = (TOWER.block(spec), [dim, 3, patch, patch]);
        Self {
            embedding: ClassAndPatches {
                class: Vec::new(),
                pos_embed: parameters.tensor(
                    "pos_embed",
                    &[side * side, dim],
                    Init::TruncatedNormal(0.02),
                ),
                patch_embed: Linear::shaped(parameters, "patch_embed.proj", &patches),
            },
            trunk: Trunk {
                blocks: Blocks::new(parameters, "blocks", &block, spec.depth),
                norm: LayerNorm::new(parameters, "norm", dim, TOWER.eps),
                shape: EncoderShape {
                    dim,
                    depth: spec.depth,
                    class_tokens: 0,
                    prefix_tokens: 0,
                    patch_size: patch,
                },
            },
            head: parameters
                .untrained(|parameters| AttentionPooling::new(parameters, "head", &block)),
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
        self.embedding.embed(&self.trunk.shape, input, compute)
    }

    /// What attention pools of all tokens after the final norm.
    fn pooled(&self, tokens: &Tokens) -> Tensor {
        let normalised = self.trunk.norm.forward(&tokens.all);
        self.head.forward(&normalised.to_kind(Kind::Float))
    }

    fn freeze_embedding(&mut self, format: FrozenFormat, grid_size: i64) {
        self.embedding.freeze(&self.trunk.shape, format, grid_size);
    }
}
