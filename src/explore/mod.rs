//! What encoders find alike in images, as one HTML page that a browser shows without anything else.

mod page;
mod sheets;

pub use page::page;
