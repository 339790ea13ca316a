//! The Pixio vision transformer, and what distillation and pre-training add to it.
//!
//! Parameters carry the names of the published checkpoints. A model is built through
//! [`Parameters`], which can also only count: the five billion parameters of the largest encoder
//! need no memory to be listed.

mod block;
mod decoder;
mod drop_path;
mod flops;
mod fp8;
mod frozen;
mod layers;
mod mask;
mod parameters;
mod patches;
mod position;
mod projector;
mod recompute;
mod vit;

use tch::Kind;

use crate::config::Precision;

pub use decoder::Decoder;
pub use drop_path::{DropPath, drop_path_scales, kept_images};
pub use flops::{decoder_flops, encoder_flops, projector_flops};
pub use fp8::require_fp8;
pub use frozen::FrozenPass;
pub use mask::{Mask, gather_tokens, masked_patches};
pub use parameters::{Init, Parameters, Storage};
pub use patches::{Normalisation, NormalisedPixels, patchify, unpatchify};
pub use position::resize_positions;
pub use projector::Projector;
pub use recompute::KeptInputs;
pub use vit::{FrozenFormat, Vit, VitInput};

/// The kind of tensor that a config's number format means.
pub fn kind_of(precision: Precision) -> Kind {
    match precision {
        Precision::Fp32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
    }
}
