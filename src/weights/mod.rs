//! Weights on disk: reading them from every form they come in, writing them, and exporting.
//!
//! Everything is streamed. Files are mapped, tensors copied one at a time, and the pages given
//! back, so that loading or converting a model needs little more memory than what it fills.
//!
//! Parameters go by their original Pixio names (`blocks.0.attn.qkv.weight`) wherever this module
//! meets the rest of the program; `names.rs` knows the other family.

mod container;
mod export;
mod header;
mod hugging_face;
mod mismatch;
mod names;
mod pickle;
mod pth;
mod stored_encoder;
mod tensor_file;
mod weight_file;
mod write;

pub use export::export;
pub use hugging_face::Preprocessing;
pub use names::{Layout, beside_encoder};
pub use stored_encoder::StoredEncoder;
pub use tensor_file::TensorFile;
pub use weight_file::WeightFile;
pub use write::{SafetensorsWriter, TensorPlan, Written, write_safetensors};
