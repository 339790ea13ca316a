//! (skeleton)

pub mod checkpoint;
