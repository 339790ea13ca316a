//! CLIP's image tower (Radford et al., 2021): a vision transformer whose tokens are normalised before the first block,
//! with one class token.
//!
//! `transformers` normalises no token behind the last block but the class token, and only as the pooled vector. So here
//! it has no final norm: what it gives, teaches and learns are the tokens as they leave the last block, and the last
//! norm belongs to the pooling.

mod family;
mod model;
mod names;
mod spec;

pub use spec::Clip;
