//! Vision encoders: images in, tokens out.
//!
//! [`Encoder`] is what the rest of the program knows of them. A [`Family`] is a folder with a model,
//! the names of its tensors, its form in Hugging Face folders and its published sizes; [`FAMILIES`]
//! lists them. [`EncoderSpec`] is one encoder in numbers, as configurations have it, and
//! [`EncoderWeights`] are its weights on disk.
//!
//! ```no_run
//! use distill::encoders::{EncoderSpec, Input};
//! use distill::nn::{Parameters, Storage};
//! use tch::{Device, Kind, Tensor};
//!
//! let storage = Storage::Drawn { device: Device::Cpu, matrices: Kind::Float, seed: 0, rng_stream: 0 };
//! let mut parameters = Parameters::new(storage);
//! let encoder = EncoderSpec::named("pixio_vitb16").unwrap().build(&mut parameters, 16);
//! let images = Tensor::zeros([1, 3, 256, 256], (Kind::Float, Device::Cpu));
//! let tokens = encoder.forward(&Input::whole(images), Kind::Float);
//! assert_eq!(tokens.prefix().size(), [1, 8, 768]);
//! assert_eq!(tokens.patches().size(), [1, 256, 768]);
//! ```

mod checks;
mod class_and_patches;
mod clip;
mod config_json;
mod dinov2;
mod dinov3_vit;
mod drawing;
mod encoder;
mod export;
mod export_onnx;
mod families;
mod family;
mod foreign;
mod frozen;
mod measuring;
mod name_table;
mod pixio;
mod siglip;
mod spec_form;
mod stored;
mod tokens;
mod towers;
mod trunk;
mod vit;
mod whereabouts;

pub use drawing::{Drawing, Drawn};
pub use encoder::{Encoder, EncoderShape, Input, RestOfBackward};
pub use export::export;
pub use export_onnx::export_onnx;
pub use families::FAMILIES;
pub use family::{EncoderSpec, Family, StoredEncoder};
pub use frozen::FrozenPass;
pub use stored::{EncoderWeights, declared_at, located};
pub use tokens::Tokens;
pub use whereabouts::Whereabouts;
