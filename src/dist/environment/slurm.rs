//! The variables of Slurm's `srun`.

use super::launcher::{Launcher, port_of_job};
use super::rank_info::{RankInfo, Rendezvous};
use super::variables::{Variables, error};
use crate::config::ConfigError;

/// A batch script and the shell of `salloc` have a rank and a number of tasks too, but only what
/// `srun` starts has the number of tasks of its step.
pub(super) const LAUNCHER: Launcher = Launcher {
    name: "srun",
    signs: &["SLURM_STEP_NUM_TASKS"],
    rank: "SLURM_PROCID",
    world_size: "SLURM_STEP_NUM_TASKS",
    local_rank: "SLURM_LOCALID",
    local_world_size: "SLURM_STEP_TASKS_PER_NODE",
    rank_info,
};

const NODE: &str = "SLURM_NODEID";
const NODES: &str = "SLURM_STEP_NODELIST";

fn rank_info(variables: &Variables) -> Result<RankInfo, ConfigError> {
    let number = |name| LAUNCHER.number(name, variables);
    let text = |name| variables.text(name).ok_or_else(|| LAUNCHER.missing(name, variables));
    let (rank, world_size) = (number(LAUNCHER.rank)?, number(LAUNCHER.world_size)?);
    let (tasks, node) = (text(LAUNCHER.local_world_size)?, number(NODE)?);
    let local_world_size = tasks_of_node(&tasks, node).ok_or_else(|| {
        let message = format!(
            "found `{tasks}`, expected tasks of each node, as in `8(x2),4`, with one for {NODE}, \
             which is `{node}`"
        );
        error(LAUNCHER.local_world_size, message)
    })?;
    let host = match variables.host()? {
        Some(host) => host,
        None => {
            let nodes = text(NODES)?;
            first_host(&nodes).ok_or_else(|| {
                error(NODES, format!("found `{nodes}`, expected hosts, as in `gpu[001-016,020]`"))
            })?
        }
    };
    let port = match variables.port()? {
        Some(port) => port,
        None => port_of_job(&format!("{}.{}", text("SLURM_JOB_ID")?, text("SLURM_STEP_ID")?)),
    };
    let attempt = variables.number("SLURM_RESTART_COUNT")?.unwrap_or(0);
    let rendezvous = Rendezvous { host, port, hosted_by_launcher: false, attempt };
    LAUNCHER.checked(
        (rank, world_size),
        (number(LAUNCHER.local_rank)?, local_world_size),
        rendezvous,
    )
}

/// Tasks of the node at this place in a list such as `8(x2),4`: 8 on each of two nodes, then 4.
pub(super) fn tasks_of_node(list: &str, mut node: usize) -> Option<usize> {
    for group in list.split(',') {
        let (tasks, nodes) = match group.split_once("(x") {
            Some((tasks, nodes)) => (tasks, nodes.strip_suffix(')')?.parse().ok()?),
            None => (group, 1),
        };
        let tasks = tasks.parse().ok()?;
        if node < nodes {
            return Some(tasks);
        }
        node -= nodes;
    }
    None
}

/// The first host of a list such as `rack[01-02]gpu[001-016,020],login`: `rack01gpu001`. Of each
/// pair of brackets that is the first number, with its leading zeros.
pub(super) fn first_host(list: &str) -> Option<String> {
    let mut host = String::new();
    let mut rest = list;
    loop {
        let end = rest.find(['[', ',']).unwrap_or(rest.len());
        host += &rest[..end];
        if !rest[end..].starts_with('[') {
            let is_name = !host.is_empty() && !host.contains([']', ' ']);
            return is_name.then_some(host);
        }
        let (numbers, after) = rest[end + 1..].split_once(']')?;
        let first = numbers.split([',', '-']).next()?;
        if first.is_empty() || !first.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        host += first;
        rest = after;
    }
}
