//! What is learned: each task is a folder with its objective and its configuration.

mod config;
pub mod distill;
mod masked_encoder;
pub mod pretrain;
mod trainee;

pub use config::{AnyConfig, Task, TaskConfig};
pub use masked_encoder::{EncoderPass, MaskedEncoder, PassDraws};
pub use trainee::TraineeConfig;
