//! What encoders, and what is trained beside them, are made of.
//!
//! Parameters carry the names of the published checkpoints. A model is built through
//! [`Parameters`], which can also only count: the five billion parameters of the largest encoder
//! need no memory to be listed.

mod activation;
mod biases;
mod block;
mod blocks;
mod decoder;
mod drop_path;
mod flops;
mod fp8;
mod frozen;
mod kept;
mod layers;
mod mask;
mod parameters;
mod patches;
mod pooling;
mod position;
mod projector;
mod resizing;
mod rotary;
mod taps;
mod trained;

pub use activation::Activation;
pub use biases::Biases;
pub use block::BlockShape;
pub use blocks::{Blocks, KeptInputs};
pub use decoder::{Decoder, DecoderShape};
pub use drop_path::{DropPath, DropPathMode, StochasticDepth, drop_path_scales, kept_images};
pub use flops::{block_flops, decoder_flops, patch_flops, projector_flops, transformer_flops};
pub use fp8::{FP8_LEAST_WEIGHTS, ProductPrecision, require_fp8, rounded_rows};
pub use frozen::{FrozenFormat, Junctions};
pub use kept::{Keeping, projector_kept_bytes, transformer_kept_bytes};
pub use layers::{LayerNorm, Linear};
pub use mask::{Mask, gather_tokens, masked_patches};
pub use parameters::{Init, Parameters, Storage};
pub use patches::{Normalisation, NormalisedPixels, patchify, unpatchify};
pub use pooling::AttentionPooling;
pub use position::{resize_positions, resize_positions_smoothly, sin_cos_positions};
pub use projector::{Projector, ProjectorKind};
pub use resizing::ImageResizing;
pub use rotary::{Rotary, RotaryShape};
pub use taps::Taps;
