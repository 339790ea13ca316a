//! Where shards lie, and how their bytes are fetched.
//!
//! A shard is a file or an object behind a URL: [`address`] names it, [`pattern`] finds many.
//! Objects are fetched by [`store`], which speaks [`s3`] or [`http`] and tries again where that
//! may help ([`failure`]). [`remote`] fetches them in pieces into the [`cache`] that all processes
//! of a machine share, and [`reader`] passes once over a whole object without it. For files there
//! is none of this: no thread, no folder, no copy. A [`bundle`] makes a shard of many files.

mod address;
mod answer;
mod bundle;
mod cache;
mod class_folder;
mod client;
mod failure;
mod http;
mod pattern;
mod reader;
mod remote;
mod s3;
mod segment;
mod sources;
mod splits;
mod stamp;
mod store;

pub use address::ShardAddress;
pub use bundle::{Bundle, BundledSample, SampleFiles};
pub use class_folder::{
    ClassFolder, IMAGE_MARK, NOT_READ, TEXTS, begins_image, is_image_extension, kinds_left_out,
    list, some_of,
};
pub use pattern::INDEX_SUFFIX;
pub use segment::Segment;
pub use sources::{ReadSeek, Sources};
pub use splits::Splits;
pub use stamp::Stamp;
pub use store::Transfer;
