//! Weights on disk: reading them from every form they come in, writing them, and exporting.
//!
//! Everything is streamed. Files are mapped, tensors copied one at a time, and the pages given
//! back, so that loading or converting a model needs little more memory than what it fills.
//!
//! Files of other programs have other names for the parameters of a model: [`NameMap`] is how whoever
//! knows the model tells [`WeightFile`].

mod container;
mod folder;
mod header;
mod mismatch;
mod name_map;
mod open;
mod pickle;
mod preprocessing;
mod pth;
mod tensor_file;
mod weight_file;
mod write;

pub use folder::{Strangers, replace_folder};
pub use header::torch_name;
pub use name_map::{NameMap, Place};
pub use open::{CONFIG, MODEL};
pub use preprocessing::{PREPROCESSOR, Preprocessing};
pub use tensor_file::TensorFile;
pub use weight_file::WeightFile;
pub use write::{SafetensorsWriter, TensorPlan, Written, write_renamed, write_safetensors};
