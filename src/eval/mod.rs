//! How good an encoder's features are, told without training anything on them.
//!
//! [`features`] goes over images once for any number of encoders; [`knn`] classifies held-out
//! images by the reference images whose features are nearest.

pub mod features;
pub mod knn;

pub use features::{Encoder, Features, ImageSource, LeftOut, features};
