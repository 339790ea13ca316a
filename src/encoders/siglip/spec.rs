//! The published image towers of SigLIP and SigLIP 2 in numbers.

use crate::encoders::family::EncoderSpec;
use crate::encoders::towers::Tower;
use crate::encoders::whereabouts::{Repository, Whereabouts};
use crate::nn::{Activation, Biases};

/// SigLIP's image towers: see [`super`].
pub struct Siglip;

pub(super) static TOWER: Tower = Tower {
    whole: "siglip",
    alone: "siglip_vision_model",
    class: "SiglipVisionModel",
    class_tokens: 0,
    eps: 1e-6,
    keys: &["vision_use_head"],
};

/// Name, width, depth, heads, patch, width of the MLP's hidden layer.
const PUBLISHED: [(&str, usize, usize, usize, usize, usize); 6] = [
    ("siglip_vitb16", 768, 12, 12, 16, 3072),
    ("siglip_vitb32", 768, 12, 12, 32, 3072),
    ("siglip_vitl16", 1024, 24, 16, 16, 4096),
    ("siglip_so400m14", 1152, 27, 16, 14, 4304),
    ("siglip_so400m16", 1152, 27, 16, 16, 4304),
    ("siglip_giantopt16", 1536, 40, 16, 16, 6144),
];

/// The repositories of their authors.
const REPOSITORIES: [Repository; 6] = [
    ("siglip_vitb16", "google/siglip2-base-patch16-224"),
    ("siglip_vitb32", "google/siglip2-base-patch32-256"),
    ("siglip_vitl16", "google/siglip2-large-patch16-256"),
    ("siglip_so400m14", "google/siglip2-so400m-patch14-224"),
    ("siglip_so400m16", "google/siglip2-so400m-patch16-256"),
    ("siglip_giantopt16", "google/siglip2-giant-opt-patch16-256"),
];

/// Where the published tower `name` is to be had.
pub(super) fn whereabouts(name: &str) -> Whereabouts {
    Whereabouts::among(&REPOSITORIES, name, "Apache-2.0")
}

/// All published towers by their names.
pub(super) fn published() -> Vec<(&'static str, EncoderSpec)> {
    let of_row = |(name, dim, depth, heads, patch_size, hidden)| {
        let numbers = EncoderSpec { dim, depth, heads, patch_size, ..defaults() };
        (name, numbers.with_hidden(hidden))
    };
    PUBLISHED.into_iter().map(of_row).collect()
}

/// The defaults of `SiglipVisionConfig`.
pub(super) fn defaults() -> EncoderSpec {
    EncoderSpec {
        family: &Siglip,
        dim: 768,
        depth: 12,
        heads: 12,
        patch_size: 16,
        class_tokens: 0,
        registers: 0,
        mlp_ratio: 4,
        mlp_width: 0,
        gated: false,
        activation: Activation::GeluTanh,
        biases: Biases::ALL,
        rope_theta: 0,
    }
}
