//! `distill watch`: a run on a terminal, as its directory tells of it.
//!
//! [`Watched`] follows the run's files, which it only reads; [`draw`] shows what is known, on a screen of any size;
//! [`on_terminal`] lends a screen, and gives the terminal back however the loan ends.

mod charts;
mod facts;
mod frame;
mod log_lines;
mod panels;
mod plain;
mod tail;
mod terminal;
mod view;
mod watched;

pub use frame::draw;
pub use plain::{frame_as_text, summary};
pub use terminal::{now, on_terminal, show};
pub use view::{Panel, View};
pub use watched::Watched;
