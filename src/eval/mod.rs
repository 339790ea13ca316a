//! How good an encoder's features are, told without training anything on them.
//!
//! [`features`] goes over pictures once for any number of encoders; [`knn`] classifies held-out
//! pictures by the reference pictures whose features are nearest.

pub mod features;
pub mod knn;

pub use features::{Encoder, Features, LeftOut, PictureSource, features};
