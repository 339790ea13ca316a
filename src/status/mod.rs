//! What a live process does, for people who ask: SIGQUIT (Ctrl-\) prints it, and the process goes on.
//!
//! Whoever has a thread that may wait registers a line or more about it ([`register`]); a dump is all
//! of these and what the kernel says of each thread. docs/DEBUGGING.md shows how to read one.

mod dump;
mod progress;
mod registry;
mod threads;

pub use dump::dump_on_quit;
pub use progress::{Progress, beat, note_progress_in, progress};
pub use registry::{Registration, register};
