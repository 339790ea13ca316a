//! Starts the processes of one node, and waits for their end.
//!
//! Whatever the processes do, the launcher ends, and none of them is left behind: they are killed
//! after a time of grace, and die with the launcher even if that is killed itself.

mod attempt;
mod bond;
mod ending;
mod lines;
mod plan;
mod restarts;

pub use bond::die_with_the_launcher;
pub use ending::{End, Ending, Failure};
pub use plan::Launch;
pub use restarts::launch;
