//! A run as one HTML page, and pictures in sheets.

mod charts;
mod curve;
mod numbers;
mod page;
mod plan;
mod results;
mod run;
mod sheet;
mod training;

pub use page::page;
pub use run::Run;
pub use sheet::Sheet;
