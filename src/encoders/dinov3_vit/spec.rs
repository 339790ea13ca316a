//! The published DINOv3 vision transformers in numbers.

use crate::encoders::family::EncoderSpec;
use crate::encoders::whereabouts::{Repository, Whereabouts};
use crate::nn::{Activation, Biases};

/// DINOv3's vision transformers: see [`super`].
pub struct Dinov3Vit;

/// In configurations, `config.json` and names of files.
pub(super) const NAME: &str = "dinov3_vit";

/// Side of a patch, in pixels.
pub(super) const PATCH_SIZE: usize = 16;
pub(super) const MLP_RATIO: usize = 4;
pub(super) const REGISTERS: usize = 4;
pub(super) const ROPE_THETA: usize = 100;

/// Side of the images that published encoders' `config.json` names, in pixels.
pub(super) const IMAGE_SIZE: usize = 224;

/// Name, width, depth, heads, whether MLPs are gated.
const PUBLISHED: [(&str, usize, usize, usize, bool); 5] = [
    ("dinov3_vits16", 384, 12, 6, false),
    ("dinov3_vits16plus", 384, 12, 6, true),
    ("dinov3_vitb16", 768, 12, 12, false),
    ("dinov3_vitl16", 1024, 24, 16, false),
    ("dinov3_vith16plus", 1280, 32, 20, true),
];

const REPOSITORIES: [Repository; 6] = [
    ("dinov3_vits16", "facebook/dinov3-vits16-pretrain-lvd1689m"),
    ("dinov3_vits16plus", "facebook/dinov3-vits16plus-pretrain-lvd1689m"),
    ("dinov3_vitb16", "facebook/dinov3-vitb16-pretrain-lvd1689m"),
    ("dinov3_vitl16", "facebook/dinov3-vitl16-pretrain-lvd1689m"),
    ("dinov3_vith16plus", "facebook/dinov3-vith16plus-pretrain-lvd1689m"),
    ("dinov3_vit7b16", "facebook/dinov3-vit7b16-pretrain-lvd1689m"),
];

/// Where the published encoder `name` is to be had.
pub(super) fn whereabouts(name: &str) -> Whereabouts {
    Whereabouts { is_gated: true, ..Whereabouts::among(&REPOSITORIES, name, "DINOv3 License") }
}

/// All published encoders by their names.
pub(super) fn published() -> Vec<(&'static str, EncoderSpec)> {
    let of_row =
        |(name, dim, depth, heads, gated)| (name, EncoderSpec { gated, ..spec(dim, depth, heads) });
    let largest = EncoderSpec {
        mlp_ratio: 2,
        gated: true,
        biases: Biases::WITHOUT_QKV,
        ..spec(4096, 40, 32)
    };
    PUBLISHED.into_iter().map(of_row).chain([("dinov3_vit7b16", largest)]).collect()
}

/// An encoder with the patches, registers, MLP and biases of most of the published ones.
pub(super) fn spec(dim: usize, depth: usize, heads: usize) -> EncoderSpec {
    EncoderSpec {
        family: &Dinov3Vit,
        dim,
        depth,
        heads,
        patch_size: PATCH_SIZE,
        class_tokens: 1,
        registers: REGISTERS,
        mlp_ratio: MLP_RATIO,
        mlp_width: 0,
        gated: false,
        activation: Activation::Gelu,
        biases: Biases::WITHOUT_KEY,
        rope_theta: ROPE_THETA,
    }
}
