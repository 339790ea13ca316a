//! The list of encoder families.

use super::clip::Clip;
use super::dinov2::Dinov2;
use super::dinov3_vit::Dinov3Vit;
use super::family::{EncoderSpec, Family};
use super::pixio::Pixio;
use super::siglip::Siglip;
use super::vit::Vit;

/// Every family; the first is meant where a configuration names none.
pub static FAMILIES: &[&dyn Family] = &[
    &Pixio,
    &Dinov2::PLAIN,
    &Dinov2::WITH_REGISTERS,
    &Dinov3Vit,
    &Vit::PLAIN,
    &Vit::OF_AUTOENCODER,
    &Vit::DISTILLED,
    &Clip,
    &Siglip,
];

/// The family that a configuration means which names none.
pub fn default_family() -> &'static dyn Family {
    FAMILIES[0]
}

impl EncoderSpec {
    /// An encoder of the first family, of this width, depth and heads and the family's defaults.
    pub fn new(dim: usize, depth: usize, heads: usize) -> Self {
        Self { dim, depth, heads, ..default_family().defaults() }
    }

    /// The published encoder of this name, of whatever family.
    pub fn named(name: &str) -> Option<Self> {
        let mut published = FAMILIES.iter().flat_map(|family| family.published());
        published.find(|(known, _)| *known == name).map(|(_, spec)| spec)
    }
}
