//! The variables of Open MPI's `mpirun`.

use super::launcher::{Launcher, port_of_job};
use super::rank_info::{RankInfo, Rendezvous};
use super::variables::{MASTER_ADDR, MASTER_PORT, Variables, error};
use crate::config::ConfigError;

pub(super) const LAUNCHER: Launcher = Launcher {
    name: "mpirun",
    signs: &["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"],
    rank: "OMPI_COMM_WORLD_RANK",
    world_size: "OMPI_COMM_WORLD_SIZE",
    local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
    local_world_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
    rank_info,
};

/// Either is the same in all processes of one `mpirun`, and another in each.
const JOB: [&str; 2] = ["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"];

fn rank_info(variables: &Variables) -> Result<RankInfo, ConfigError> {
    let number = |name| LAUNCHER.number(name, variables);
    let (rank, world_size) = (number(LAUNCHER.rank)?, number(LAUNCHER.world_size)?);
    let local = (number(LAUNCHER.local_rank)?, number(LAUNCHER.local_world_size)?);
    let tell = |name: &str, why: &str| {
        let message = format!(
            "is missing: {why}; give every process the same one, where rank 0 can listen: mpirun \
             -x MASTER_ADDR=HOST-OF-RANK-0 -x MASTER_PORT=29500 ..."
        );
        error(name, message)
    };
    let host = match variables.host()? {
        Some(host) => host,
        None if local.1 == world_size => "127.0.0.1".to_string(),
        None => return Err(tell(MASTER_ADDR, "mpirun does not say on which node rank 0 is")),
    };
    let job = || JOB.iter().find_map(|name| variables.text(name));
    let port = match variables.port()? {
        Some(port) => port,
        None => port_of_job(
            &job().ok_or_else(|| tell(MASTER_PORT, "mpirun gives its job no number here"))?,
        ),
    };
    let rendezvous = Rendezvous { host, port, hosted_by_launcher: false, attempt: 0 };
    LAUNCHER.checked((rank, world_size), local, rendezvous)
}
