//! Heartbeats: how every process learns that one is dead, hung or cut off, and which.
//!
//! A thread of each process ([`monitor`]) puts up a note every second or more often: how often it did
//! so, at which step the process is, and what it does. Rank 0 reads all of them, the others read that
//! of rank 0. Who finds one that stays the same for too long puts up a [`Failure`], which ends all.
//! The store itself may stop answering, so a second thread ([`watchdog`]), which asks nobody, watches
//! the first.
//!
//! A process that is gone, unlike one that is only silent, is found within seconds ([`lifeline`]).
//!
//! The training thread looks at the outcome wherever it waits. Should it not (it may hang inside a
//! library), the second thread ends the process.

mod handle;
mod lifeline;
mod monitor;
mod notes;
mod shared;
mod watchdog;

pub use handle::Heartbeat;
pub use notes::{Failure, report_former_self};
