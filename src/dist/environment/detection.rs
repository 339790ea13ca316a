//! Finding out which launcher started this process.

use std::env;

use super::rank_info::RankInfo;
use super::variables::Variables;
use super::{open_mpi, slurm, torchrun};
use crate::config::ConfigError;

/// The rank that a launcher gave to this process; `None` if no launcher started it.
pub fn of_this_process() -> Result<Option<RankInfo>, ConfigError> {
    rank_info(|name| Some(env::var_os(name)?.to_string_lossy().into_owned()))
}

/// Whether the scheduler has queued this job again: what it begins was begun before.
pub fn is_requeued() -> bool {
    let restarts = env::var("SLURM_RESTART_COUNT").ok().and_then(|count| count.parse::<u64>().ok());
    restarts.is_some_and(|count| count > 0)
}

/// The rank that environment variables give; `None` if no launcher set them.
///
/// An empty variable counts as a missing one.
///
/// # Errors
/// A variable is missing, is not what it should be, or contradicts another.
pub fn rank_info(
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<RankInfo>, ConfigError> {
    let variables = Variables::new(&variable);
    let outer = [&open_mpi::LAUNCHER, &slurm::LAUNCHER]
        .into_iter()
        .find(|launcher| launcher.is_present(&variables));
    if torchrun::LAUNCHER.is_present(&variables) {
        let nested = torchrun::MARKS.iter().any(|mark| variables.is_set(mark));
        if let (false, Some(outer)) = (nested, outer) {
            torchrun::LAUNCHER.agrees_with(outer, &variables)?;
        }
        // Scripts of Slurm jobs often export WORLD_SIZE alone: the rank is then srun's to tell.
        if nested || outer.is_none() || variables.is_set(torchrun::LAUNCHER.rank) {
            return torchrun::rank_info(&variables).map(Some);
        }
    }
    match outer {
        Some(launcher) => (launcher.rank_info)(&variables).map(Some),
        None => Ok(None),
    }
}
