//! The published DINOv2 encoders in numbers.

use crate::encoders::family::EncoderSpec;
use crate::encoders::whereabouts::{Repository, Whereabouts};
use crate::nn::{Activation, Biases};

/// DINOv2 encoders without or with registers: see [`super`]. `transformers` has a class for each.
pub struct Dinov2 {
    pub(super) has_registers: bool,
}

impl Dinov2 {
    /// Without registers.
    pub const PLAIN: Self = Self { has_registers: false };
    /// With registers.
    pub const WITH_REGISTERS: Self = Self { has_registers: true };
}

pub(super) static PLAIN: Dinov2 = Dinov2::PLAIN;
pub(super) static WITH_REGISTERS: Dinov2 = Dinov2::WITH_REGISTERS;

/// Side of a patch, in pixels.
pub(super) const PATCH_SIZE: usize = 14;
pub(super) const MLP_RATIO: usize = 4;
pub(super) const REGISTERS: usize = 4;

/// Name without and with registers, width, depth, heads, whether MLPs are gated.
const PUBLISHED: [(&str, &str, usize, usize, usize, bool); 4] = [
    ("dinov2_vits14", "dinov2_vits14_reg", 384, 12, 6, false),
    ("dinov2_vitb14", "dinov2_vitb14_reg", 768, 12, 12, false),
    ("dinov2_vitl14", "dinov2_vitl14_reg", 1024, 24, 16, false),
    ("dinov2_vitg14", "dinov2_vitg14_reg", 1536, 40, 24, true),
];

const REPOSITORIES: [Repository; 8] = [
    ("dinov2_vits14", "facebook/dinov2-small"),
    ("dinov2_vitb14", "facebook/dinov2-base"),
    ("dinov2_vitl14", "facebook/dinov2-large"),
    ("dinov2_vitg14", "facebook/dinov2-giant"),
    ("dinov2_vits14_reg", "facebook/dinov2-with-registers-small"),
    ("dinov2_vitb14_reg", "facebook/dinov2-with-registers-base"),
    ("dinov2_vitl14_reg", "facebook/dinov2-with-registers-large"),
    ("dinov2_vitg14_reg", "facebook/dinov2-with-registers-giant"),
];

/// Where the published encoder `name` is to be had.
pub(super) fn whereabouts(name: &str) -> Whereabouts {
    Whereabouts::among(&REPOSITORIES, name, "Apache-2.0")
}

impl Dinov2 {
    /// All published encoders by their names.
    pub(super) fn sizes(&self) -> Vec<(&'static str, EncoderSpec)> {
        let of_row = |(plain, with_registers, dim, depth, heads, gated)| {
            let name = if self.has_registers { with_registers } else { plain };
            (name, EncoderSpec { gated, ..self.spec(dim, depth, heads) })
        };
        PUBLISHED.into_iter().map(of_row).collect()
    }

    /// An encoder with the patches, registers and MLP of most of the published ones.
    pub(super) fn spec(&self, dim: usize, depth: usize, heads: usize) -> EncoderSpec {
        EncoderSpec {
            family: if self.has_registers { &WITH_REGISTERS } else { &PLAIN },
            dim,
            depth,
            heads,
            patch_size: PATCH_SIZE,
            class_tokens: 1,
            registers: if self.has_registers { REGISTERS } else { 0 },
            mlp_ratio: MLP_RATIO,
            mlp_width: 0,
            gated: false,
            activation: Activation::Gelu,
            biases: Biases::ALL,
            rope_theta: 0,
        }
    }
}

/// Width of the MLP's hidden layer: of gated ones two thirds, rounded up to a multiple of 8, which has about as many
/// parameters (Shazeer, "GLU Variants Improve Transformer", 2020).
pub(super) fn hidden(spec: &EncoderSpec) -> usize {
    let hidden = spec.dim * spec.mlp_ratio;
    if spec.gated { (hidden * 2 / 3).next_multiple_of(8) } else { hidden }
}
