//! What safe Rust cannot say by itself: each module here wraps one such thing in a safe type.

mod mapped_file;

pub use mapped_file::MappedFile;
