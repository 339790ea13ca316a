//! A run as one HTML page, and pictures in sheets.

mod sheet;

pub use sheet::Sheet;
