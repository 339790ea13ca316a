//! The published image towers of CLIP in numbers.

use crate::encoders::family::EncoderSpec;
use crate::encoders::towers::Tower;
use crate::encoders::whereabouts::{Repository, Whereabouts};
use crate::nn::{Activation, Biases};

/// CLIP's image towers: see [`super`].
pub struct Clip;

pub(super) static TOWER: Tower = Tower {
    whole: "clip",
    alone: "clip_vision_model",
    class: "CLIPVisionModel",
    class_tokens: 1,
    eps: 1e-5,
    keys: &[],
};

/// Name, width, depth, heads, patch, width of the MLP's hidden layer.
type Row = (&'static str, usize, usize, usize, usize, usize);

/// OpenAI's.
const QUICK: [Row; 3] = [
    ("clip_vitb32", 768, 12, 12, 32, 3072),
    ("clip_vitb16", 768, 12, 12, 16, 3072),
    ("clip_vitl14", 1024, 24, 16, 14, 4096),
];

/// Those that OpenCLIP trained on LAION's images, with exact GELU.
const EXACT: [Row; 6] = [
    ("clip_vitb32_laion", 768, 12, 12, 32, 3072),
    ("clip_vitb16_laion", 768, 12, 12, 16, 3072),
    ("clip_vitl14_laion", 1024, 24, 16, 14, 4096),
    ("clip_vith14_laion", 1280, 32, 16, 14, 5120),
    ("clip_vitg14_laion", 1408, 40, 16, 14, 6144),
    ("clip_vitbigg14_laion", 1664, 48, 16, 14, 8192),
];

/// The repositories of their authors.
const REPOSITORIES: [Repository; 3] = [
    ("clip_vitb32", "openai/clip-vit-base-patch32"),
    ("clip_vitb16", "openai/clip-vit-base-patch16"),
    ("clip_vitl14", "openai/clip-vit-large-patch14"),
];

/// Where the published tower `name` is to be had.
pub(super) fn whereabouts(name: &str) -> Whereabouts {
    Whereabouts::among(&REPOSITORIES, name, "MIT")
}

/// All published towers by their names.
pub(super) fn published() -> Vec<(&'static str, EncoderSpec)> {
    let of_rows = |rows: &'static [Row], activation| {
        rows.iter().map(move |&(name, dim, depth, heads, patch_size, hidden)| {
            let numbers = EncoderSpec { dim, depth, heads, patch_size, activation, ..defaults() };
            (name, numbers.with_hidden(hidden))
        })
    };
    of_rows(&QUICK, Activation::QuickGelu).chain(of_rows(&EXACT, Activation::Gelu)).collect()
}

/// The defaults of `CLIPVisionConfig`.
pub(super) fn defaults() -> EncoderSpec {
    EncoderSpec {
        family: &Clip,
        dim: 768,
        depth: 12,
        heads: 12,
        patch_size: 32,
        class_tokens: 1,
        registers: 0,
        mlp_ratio: 4,
        mlp_width: 0,
        gated: false,
        activation: Activation::QuickGelu,
        biases: Biases::ALL,
        rope_theta: 0,
    }
}
