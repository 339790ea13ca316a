//! Training on many processes of this machine, each started as a launcher would: by its variables.

mod crowd;
mod faults;
mod meeting;
mod same;
mod signals;
mod stragglers;

use crate::support::ranks::{Ranks, losses, metrics, train, wait_for_steps};
