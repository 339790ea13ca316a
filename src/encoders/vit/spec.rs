//! The published plain encoders in numbers.

use crate::encoders::family::EncoderSpec;
use crate::encoders::whereabouts::{Repository, Whereabouts};
use crate::nn::{Activation, Biases};

/// Plain vision transformers of a kind: see [`super`]. `transformers` has a class for each.
pub struct Vit {
    pub(super) kind: Kind,
}

/// In what they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Positions are learned.
    Plain,
    /// Positions are fixed sines and cosines.
    OfAutoencoder,
    /// Positions are learned, and a second class token is there for distillation.
    Distilled,
}

impl Vit {
    /// Positions are learned.
    pub const PLAIN: Self = Self { kind: Kind::Plain };
    /// The encoder of a masked autoencoder: positions are fixed sines and cosines.
    pub const OF_AUTOENCODER: Self = Self { kind: Kind::OfAutoencoder };
    /// DeiT: there is a token for distillation beside the class token.
    pub const DISTILLED: Self = Self { kind: Kind::Distilled };
}

static PLAIN: Vit = Vit::PLAIN;
static OF_AUTOENCODER: Vit = Vit::OF_AUTOENCODER;
static DISTILLED: Vit = Vit::DISTILLED;

/// Side of a patch, in pixels.
pub(super) const PATCH_SIZE: usize = 16;
pub(super) const MLP_RATIO: usize = 4;

/// Name, width, depth, heads, patch.
type Row = (&'static str, usize, usize, usize, usize);

const LEARNED: [Row; 5] = [
    ("vit_t16", 192, 12, 3, 16),
    ("vit_s16", 384, 12, 6, 16),
    ("vit_b16", 768, 12, 12, 16),
    ("vit_l16", 1024, 24, 16, 16),
    ("vit_h14", 1280, 32, 16, 14),
];

const FIXED: [Row; 3] = [
    ("mae_vitb16", 768, 12, 12, 16),
    ("mae_vitl16", 1024, 24, 16, 16),
    ("mae_vith14", 1280, 32, 16, 14),
];

const WITH_DISTILLATION: [Row; 3] =
    [("deit_t16", 192, 12, 3, 16), ("deit_s16", 384, 12, 6, 16), ("deit_b16", 768, 12, 12, 16)];

/// The repositories of their authors; the two smallest were trained by others.
const REPOSITORIES: [Repository; 9] = [
    ("vit_b16", "google/vit-base-patch16-224-in21k"),
    ("vit_l16", "google/vit-large-patch16-224-in21k"),
    ("vit_h14", "google/vit-huge-patch14-224-in21k"),
    ("mae_vitb16", "facebook/vit-mae-base"),
    ("mae_vitl16", "facebook/vit-mae-large"),
    ("mae_vith14", "facebook/vit-mae-huge"),
    ("deit_t16", "facebook/deit-tiny-distilled-patch16-224"),
    ("deit_s16", "facebook/deit-small-distilled-patch16-224"),
    ("deit_b16", "facebook/deit-base-distilled-patch16-224"),
];

/// Where the published encoder `name` is to be had.
pub(super) fn whereabouts(name: &str) -> Whereabouts {
    Whereabouts::among(&REPOSITORIES, name, "Apache-2.0")
}

impl Vit {
    /// All published encoders by their names.
    pub(super) fn sizes(&self) -> Vec<(&'static str, EncoderSpec)> {
        let rows: &[Row] = match self.kind {
            Kind::Plain => &LEARNED,
            Kind::OfAutoencoder => &FIXED,
            Kind::Distilled => &WITH_DISTILLATION,
        };
        let of_row = |&(name, dim, depth, heads, patch_size): &Row| {
            (name, EncoderSpec { patch_size, ..self.spec(dim, depth, heads) })
        };
        rows.iter().map(of_row).collect()
    }

    /// Tokens before those of the patches.
    pub(super) fn class_tokens(&self) -> usize {
        if self.kind == Kind::Distilled { 2 } else { 1 }
    }

    /// An encoder with the patches and MLP of most of the published ones.
    pub(super) fn spec(&self, dim: usize, depth: usize, heads: usize) -> EncoderSpec {
        EncoderSpec {
            family: match self.kind {
                Kind::Plain => &PLAIN,
                Kind::OfAutoencoder => &OF_AUTOENCODER,
                Kind::Distilled => &DISTILLED,
            },
            dim,
            depth,
            heads,
            patch_size: PATCH_SIZE,
            class_tokens: self.class_tokens(),
            registers: 0,
            mlp_ratio: MLP_RATIO,
            mlp_width: 0,
            gated: false,
            activation: Activation::Gelu,
            biases: Biases::ALL,
            rope_theta: 0,
        }
    }
}
