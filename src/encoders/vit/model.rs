//! The plain vision transformer (Dosovitskiy et al., 2021).

use tch::Kind;

use super::spec::Kind as VitKind;
use crate::encoders::class_and_patches::ClassAndPatches;
use crate::encoders::encoder::{EncoderShape, Input};
use crate::encoders::family::EncoderSpec;
use crate::encoders::trunk::{Embedded, OverTrunk, Trunk};
use crate::nn::{
    BlockShape, Blocks, FrozenFormat, Init, LayerNorm, Linear, Parameters, sin_cos_positions,
};

/// Epsilon of every LayerNorm.
pub(super) const LAYER_NORM_EPS: f64 = 1e-12;

/// An encoder of any size. Fields are named as the original checkpoints' tensors.
pub(super) struct Model {
    embedding: ClassAndPatches,
    trunk: Trunk,
}

impl Model {
    /// An encoder whose position embeddings, learned or fixed, are for a `grid_size` × `grid_size` patch grid.
    pub(super) fn new(
        parameters: &mut Parameters,
        spec: &EncoderSpec,
        grid_size: usize,
        kind: VitKind,
    ) -> Self {
        let (dim, patch, side) = (spec.dim as i64, spec.patch_size as i64, grid_size as i64);
        let block = BlockShape {
            hidden: spec.dim * spec.mlp_ratio,
            biases: spec.biases,
            biases_apart: !spec.biases.query,
            ..BlockShape::new(spec.dim, spec.heads, LAYER_NORM_EPS)
        };
        let class_tokens = spec.class_tokens as i64;
        let positions = [1, class_tokens + side * side, dim];
        let names: &[&str] = match kind {
            VitKind::Distilled => &["cls_token", "dist_token"],
            _ => &["cls_token"],
        };
        let token = |name: &&str| parameters.tensor(name, &[1, 1, dim], Init::Normal(0.02));
        Self {
            embedding: ClassAndPatches {
                class: names.iter().map(token).collect(),
                pos_embed: match kind {
                    VitKind::OfAutoencoder => {
                        parameters.fixed("pos_embed", &positions, || sin_cos_positions(dim, side))
                    }
                    VitKind::Plain | VitKind::Distilled => {
                        parameters.tensor("pos_embed", &positions, Init::TruncatedNormal(0.02))
                    }
                },
                patch_embed: Linear::shaped(
                    parameters,
                    "patch_embed.proj",
                    &[dim, 3, patch, patch],
                ),
            },
            trunk: Trunk {
                blocks: Blocks::new(parameters, "blocks", &block, spec.depth),
                norm: LayerNorm::new(parameters, "norm", dim, LAYER_NORM_EPS),
                shape: EncoderShape {
                    dim,
                    depth: spec.depth,
                    class_tokens,
                    prefix_tokens: class_tokens,
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
        self.embedding.embed(&self.trunk.shape, input, compute)
    }

    fn freeze_embedding(&mut self, format: FrozenFormat, grid_size: i64) {
        self.embedding.freeze(&self.trunk.shape, format, grid_size);
    }
}
