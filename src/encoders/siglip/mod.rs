//! SigLIP's image tower (Zhai et al., 2023), which is SigLIP 2's of a fixed resolution too (Tschannen et al., 2025): a
//! vision transformer without class token, whose tokens are pooled by attention.
//!
//! The pooling is part of the encoder: evaluations read its vector, and exports hold its parameters. Losses read tokens
//! alone, so that training leaves it as it is drawn or loaded.

mod family;
mod model;
mod names;
mod spec;

pub use spec::Siglip;
