//! How good an encoder's frozen features are.
//!
//! An [`Evaluation`] names sets of images and makes figures of their features; [`measure()`] runs
//! several of them on several encoders, going over each set of images once. [`read`] makes them of
//! the `[evaluation]` table of a configuration, by the list of [`KINDS`].

pub mod dense;
mod evaluation;
mod extract;
pub mod kinds;
mod measure;
mod stored;
mod tables;

pub use evaluation::{
    Evaluation, FeatureConsumer, FromPooled, ImageSet, Kind, SetImages, Settings, Subject,
};
pub use extract::{
    DenseBatch, DenseTaker, Encoder, Features, ImageSource, Interrupted, LeftOut, Progress,
    features, hash,
};
pub use kinds::KINDS;
pub use measure::{Given, Measured, Observer, Prepared, SetFacts, Source, measure, prepare};
pub use stored::{folders_of, measure_stored};
pub use tables::{NamedEvaluation, metric_named, read, resolve};
