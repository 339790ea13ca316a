//! torchrun's variables, which `distill launch` sets too, and with which processes are started by
//! hand.

use super::launcher::Launcher;
use super::rank_info::{RankInfo, Rendezvous};
use super::variables::{LAUNCH_MARK, MASTER_ADDR, MASTER_PORT, Variables};
use crate::config::ConfigError;

pub(super) const LAUNCHER: Launcher = Launcher {
    name: "torchrun",
    signs: &["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"],
    rank: "RANK",
    world_size: "WORLD_SIZE",
    local_rank: "LOCAL_RANK",
    local_world_size: "LOCAL_WORLD_SIZE",
    rank_info,
};

/// Set by launchers of this kind, and not by hand: their ranks may well differ from those of the
/// job that they run in.
pub(super) const MARKS: [&str; 2] = ["TORCHELASTIC_RUN_ID", LAUNCH_MARK];

/// `LOCAL_RANK` and `LOCAL_WORLD_SIZE` may be left out only where they are plain, in a world of
/// one: elsewhere a wrong guess would put two processes on one GPU.
pub(super) fn rank_info(variables: &Variables) -> Result<RankInfo, ConfigError> {
    let missing = |name: &str| LAUNCHER.missing(name, variables);
    let rank = LAUNCHER.number(LAUNCHER.rank, variables)?;
    let world_size = LAUNCHER.number(LAUNCHER.world_size, variables)?;
    let local = |name: &str, in_world_of_one: usize| match variables.number(name)? {
        None if world_size == 1 => Ok(in_world_of_one),
        number => number.ok_or_else(|| missing(name)),
    };
    let local = (local(LAUNCHER.local_rank, 0)?, local(LAUNCHER.local_world_size, 1)?);
    let rendezvous = Rendezvous {
        host: variables.host()?.ok_or_else(|| missing(MASTER_ADDR))?,
        port: variables.port()?.ok_or_else(|| missing(MASTER_PORT))?,
        hosted_by_launcher: variables
            .text("TORCHELASTIC_USE_AGENT_STORE")
            .is_some_and(|text| text.eq_ignore_ascii_case("true")),
        attempt: variables.number("TORCHELASTIC_RESTART_COUNT")?.unwrap_or(0),
    };
    LAUNCHER.checked((rank, world_size), local, rendezvous)
}
