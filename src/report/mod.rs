//! A run as one HTML page.

mod charts;
mod curve;
mod numbers;
mod page;
mod plan;
mod results;
mod run;
mod training;

pub use page::page;
pub use run::Run;
