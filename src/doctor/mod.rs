//! The machine, looked over before a run: what is there, what is missing, and what to do about it.

mod disk;
mod examine;
mod exchange;
mod finding;
mod gpus;
mod machine;
mod network;

pub use examine::{Examination, examine};
pub use exchange::{PairDevice, exchange_as_one_of_two};
pub use finding::{Finding, Verdict};
