//! From an image's bytes to the pixels that a sample holds.
//!
//! [`decode`] makes whole images of encoded ones, `jpeg` decodes of a JPEG only what a crop needs,
//! [`resize`] is Pillow's bicubic filter, [`crop`] and [`central`] say what is cut for training and
//! for evaluation. A [`CropDecoder`] does all of it for one image, in memory that is reused.

pub mod central;
pub mod crop;
mod crop_decoder;
pub mod decode;
mod filter_weights;
mod jpeg;
pub mod resize;
mod simd;
mod strips;
mod transform;

pub use central::load_central;
pub use crop::{CropBox, CropRange};
pub use crop_decoder::{CropDecoder, CropOptions, KEPT_BYTES};
pub use decode::{Encoding, Image};
pub use transform::{ImageStats, Transform};
