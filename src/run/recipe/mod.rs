//! A recipe for people who bring images, a teacher and the name of a student: everything else is chosen from these and
//! from the machine, with the reason beside each number, and written as a configuration.

mod choice;
mod choosing;
mod images;
mod machine;
mod models;
mod text;
mod wishes;

pub use choosing::{Recipe, processes, recipe};
pub use wishes::Wishes;
