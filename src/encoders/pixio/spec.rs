//! The published Pixio encoders in numbers.

use crate::encoders::family::EncoderSpec;
use crate::encoders::whereabouts::{Repository, Whereabouts};
use crate::nn::{Activation, Biases};

/// Encoders of masked autoencoders with several class tokens: see [`super`].
pub struct Pixio;

/// In configurations, `config.json` and names of files.
pub(super) const NAME: &str = "pixio";

/// Side of a patch, in pixels.
pub(super) const PATCH_SIZE: usize = 16;
pub(super) const CLASS_TOKENS: usize = 8;
pub(super) const MLP_RATIO: usize = 4;

/// Name, width, depth, heads.
const PUBLISHED: [(&str, usize, usize, usize); 5] = [
    ("pixio_vitb16", 768, 12, 12),
    ("pixio_vitl16", 1024, 24, 16),
    ("pixio_vith16", 1280, 32, 16),
    ("pixio_vit1b16", 1536, 48, 24),
    ("pixio_vit5b16", 3072, 48, 32),
];

/// The repository of those that it is known of.
const REPOSITORIES: [Repository; 1] = [("pixio_vith16", "facebook/pixio-huge")];

/// Where the published encoder `name` is to be had.
pub(super) fn whereabouts(name: &str) -> Whereabouts {
    let licence = "FAIR Noncommercial Research License";
    let found = Whereabouts::among(&REPOSITORIES, name, licence);
    Whereabouts { licence: Some(licence), ..found }
}

/// All published encoders by their names.
pub(super) fn published() -> Vec<(&'static str, EncoderSpec)> {
    let of_row = |(name, dim, depth, heads)| (name, spec(dim, depth, heads));
    PUBLISHED.into_iter().map(of_row).collect()
}

/// An encoder with the patches, class tokens and MLP of the published ones.
pub(super) fn spec(dim: usize, depth: usize, heads: usize) -> EncoderSpec {
    EncoderSpec {
        family: &Pixio,
        dim,
        depth,
        heads,
        patch_size: PATCH_SIZE,
        class_tokens: CLASS_TOKENS,
        registers: 0,
        mlp_ratio: MLP_RATIO,
        mlp_width: 0,
        gated: false,
        activation: Activation::Gelu,
        biases: Biases::ALL,
        rope_theta: 0,
    }
}
