//! The Pixio encoder: a pre-norm vision transformer (Dosovitskiy et al., 2021) with several class
//! tokens.

use tch::{Kind, Tensor};

use crate::encoders::class_and_patches::ClassAndPatches;
use crate::encoders::encoder::{EncoderShape, Input};
use crate::encoders::family::EncoderSpec;
use crate::encoders::tokens::Tokens;
use crate::encoders::trunk::{Embedded, OverTrunk, Trunk};
use crate::nn::{BlockShape, Blocks, FrozenFormat, Init, LayerNorm, Linear, Parameters};

/// Epsilon of every LayerNorm.
pub(super) const LAYER_NORM_EPS: f64 = 1e-6;

/// An encoder of any size. Fields are named as the published checkpoints' tensors.
pub(super) struct Vit {
    embedding: ClassAndPatches,
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
            embedding: ClassAndPatches {
                class: vec![parameters.tensor("cls_token", &[1, class, dim], Init::Normal(0.02))],
                pos_embed: parameters.tensor(
                    "pos_embed",
                    &[1, tokens, dim],
                    Init::TruncatedNormal(0.02),
                ),
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

    fn embed(&self, input: &Input, compute: Kind) -> Embedded {
        self.embedding.embed(&self.trunk.shape, input, compute)
    }

    /// The mean of the class tokens.
    fn pooled(&self, tokens: &Tokens) -> Tensor {
        let class = tokens.class().to_kind(Kind::Float);
        class.mean_dim([1i64].as_slice(), false, Kind::Float)
    }

    fn freeze_embedding(&mut self, format: FrozenFormat, grid_size: i64) {
        self.embedding.freeze(&self.trunk.shape, format, grid_size);
    }
}
