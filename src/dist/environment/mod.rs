//! Who this process is among those of its run, as its launcher says in environment variables.
//!
//! The innermost launcher counts: torchrun or `distill launch` may run inside a Slurm or Open MPI
//! job, and set their variables on top of its.

mod detection;
mod launcher;
mod open_mpi;
mod rank_info;
mod slurm;
#[cfg(test)]
mod tests;
mod torchrun;
mod variables;

pub use detection::{is_requeued, of_this_process, rank_info};
pub use rank_info::{RankInfo, Rendezvous};
pub use variables::LAUNCH_MARK;
