//! What is learned: each task is a folder with its objective, its configuration and its
//! description, and stands in the list [`TASKS`].

pub mod distill;
mod initial_weights;
mod list;
mod masked_encoder;
pub mod pretrain;
mod revision;
mod task;
mod trainee;

pub use initial_weights::{drawn_encoder, initial_encoders};
pub use list::{TASKS, load, load_as};
pub use masked_encoder::{EncoderPass, MaskedEncoder, PassDraws};
pub use task::{Column, Drawing, Images, Models, Network, Setting, Task, TaskConfig};
pub use trainee::TraineeConfig;
