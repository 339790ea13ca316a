//! Masked-autoencoder pre-training: an encoder learns from the pixels that it does not see.

mod autoencoder;
mod config;
mod samples;
mod task;

pub use autoencoder::{Autoencoder, Reconstruction, flops_per_image};
pub use config::{DecoderConfig, PretrainConfig, ReconstructionConfig};
pub use task::TASK;
