//! Features of a frozen encoder, kept in files: `distill features`.
//!
//! A folder holds `features.json`, which says what made them, and parts: the images at so many neighbouring
//! places of the data, whichever process wrote them. A part is there whole or not at all, so that whatever
//! was interrupted goes on with the parts that are missing.

mod job;
mod manifest;
mod part;
mod read;

pub use job::{FeaturesJob, FeaturesOutcome, Written};
pub use manifest::{FeatureTokens, FileFormat, NumberFormat};
pub use read::{Maker, measure_features};
