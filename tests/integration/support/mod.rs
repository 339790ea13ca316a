//! What several areas of tests use.

pub mod bands;
pub mod browser;
pub mod coloured;
pub mod device;
pub mod exported;
pub mod golden;
pub mod pixels;
pub mod processes;
pub mod python;
pub mod ranks;
pub mod shards;
pub mod workshop;
