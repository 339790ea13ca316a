//! From an image's bytes to the pixels that a sample holds.
//!
//! [`decode`] makes whole images of encoded ones, `jpeg` decodes of a JPEG only what a crop needs,
//! [`resize`] is Pillow's bicubic filter, [`crop`] and [`central`] say what is cut for training and
//! for evaluation; a [`CropDecoder`] does all of it for one image, in memory that is reused. Dense
//! targets, such as masks, are cut by the same geometry, to the nearest pixel. A [`SampleDecoder`]
//! makes all fields of a sample.

pub mod central;
pub mod crop;
mod crop_decoder;
pub mod decode;
mod dense;
pub mod dense_transform;
mod filter_weights;
mod geometry;
mod jpeg;
mod jpeg_headers;
pub(crate) mod jpeg_scans;
pub(crate) mod orientation;
mod pixels;
pub mod resize;
mod sample;
mod simd;
mod strips;
mod transform;
mod turbo;

pub use central::load_central;
pub use crop::{CropBox, CropRange};
pub use crop_decoder::{CropDecoder, CropOptions};
pub use decode::{Encoding, Image};
pub use dense::{ClassMap, DenseMap, DensePixels, IGNORED_CLASS};
pub use dense_transform::{DenseCut, DenseGeometry, DenseTransform};
pub use orientation::Exif;
pub use sample::{SampleDecoder, SamplePlan, TargetPlan};
pub use transform::{ImageStats, Transform};
