//! Who this process is among those of its run, as its launcher says in environment variables.
//!
//! The innermost launcher counts: torchrun or `distill launch` may run inside a Slurm or Open MPI
//! job, and set their variables on top of its.

mod open_mpi;
mod slurm;
#[cfg(test)]
mod tests;
mod torchrun;
mod variables;

use std::env;

use crate::config::ConfigError;
use variables::Variables;

/// Set by `distill launch` in its processes: the launcher's process id.
pub const LAUNCH_MARK: &str = "DISTILL_LAUNCH";

const MASTER_ADDR: &str = "MASTER_ADDR";
const MASTER_PORT: &str = "MASTER_PORT";

/// A process's place among all processes of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankInfo {
    /// This process, in `0..world_size`.
    pub rank: usize,
    /// Processes of the run.
    pub world_size: usize,
    /// This process among those of its node, in `0..local_world_size`.
    pub local_rank: usize,
    /// Processes of this node.
    pub local_world_size: usize,
    pub rendezvous: Rendezvous,
}

/// Where the processes of a run find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendezvous {
    /// Host name or address of the node of rank 0.
    pub host: String,
    pub port: u16,
    /// The launcher listens there (torchrun's agent), not rank 0.
    pub hosted_by_launcher: bool,
    /// How often the launcher started the processes anew; notes of an earlier attempt mean nothing.
    pub attempt: u32,
}

impl RankInfo {
    /// The place of a process that no launcher started.
    pub fn alone() -> Self {
        Self {
            rank: 0,
            world_size: 1,
            local_rank: 0,
            local_world_size: 1,
            rendezvous: Rendezvous {
                host: "127.0.0.1".into(),
                port: 0,
                hosted_by_launcher: false,
                attempt: 0,
            },
        }
    }

    /// The name of this process's node.
    pub fn node(&self) -> String {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }
}

/// The place that a launcher gave to this process; none if no launcher started it.
///
/// # Errors
/// As [`rank_info`].
pub fn of_this_process() -> Result<Option<RankInfo>, ConfigError> {
    rank_info(|name| Some(env::var_os(name)?.to_string_lossy().into_owned()))
}

/// The place that environment variables tell; none if they are not those of a launcher.
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

/// A launcher, and the variables in which it tells a process's place.
struct Launcher {
    /// The program that users know.
    name: &'static str,
    /// Any of these says that the launcher is there.
    signs: &'static [&'static str],
    rank: &'static str,
    world_size: &'static str,
    local_rank: &'static str,
    local_world_size: &'static str,
    rank_info: fn(&Variables) -> Result<RankInfo, ConfigError>,
}

impl Launcher {
    fn is_present(&self, variables: &Variables) -> bool {
        self.signs.iter().any(|sign| variables.is_set(sign))
    }

    /// A number that this launcher sets without exception.
    fn number(&self, name: &str, variables: &Variables) -> Result<usize, ConfigError> {
        variables.number(name)?.ok_or_else(|| self.missing(name, variables))
    }

    fn missing(&self, name: &str, variables: &Variables) -> ConfigError {
        let own = [self.rank, self.world_size, self.local_rank, self.local_world_size];
        let found: Vec<_> = own
            .into_iter()
            .chain([MASTER_ADDR, MASTER_PORT])
            .filter(|name| variables.is_set(name))
            .collect();
        error(
            name,
            format!(
                "is missing, though there is {}: start every process through {}, or set all of \
                 its variables, or none",
                found.join(", "),
                self.name
            ),
        )
    }

    /// That what this launcher's variables say of rank and world size is what `outer`'s say.
    fn agrees_with(&self, outer: &Launcher, variables: &Variables) -> Result<(), ConfigError> {
        for (own, others) in [(self.rank, outer.rank), (self.world_size, outer.world_size)] {
            let (found, expected): (Option<usize>, Option<usize>) =
                (variables.number(own)?, variables.number(others)?);
            if let (Some(found), Some(expected)) = (found, expected)
                && found != expected
            {
                return Err(error(
                    own,
                    format!(
                        "found `{found}`, but {others} of {} is `{expected}`: which of the two \
                         started this process? Leave RANK, WORLD_SIZE, LOCAL_RANK and \
                         LOCAL_WORLD_SIZE unset in a job of {}",
                        outer.name, outer.name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// A place of these numbers, which are this launcher's, if they fit together.
    fn checked(
        &self,
        (rank, world_size): (usize, usize),
        (local_rank, local_world_size): (usize, usize),
        rendezvous: Rendezvous,
    ) -> Result<RankInfo, ConfigError> {
        for (name, number, limit_name, limit) in [
            (self.rank, rank, self.world_size, world_size),
            (self.local_rank, local_rank, self.local_world_size, local_world_size),
        ] {
            if number >= limit {
                let message = format!(
                    "found `{number}`, expected less than {limit_name}, which is `{limit}`"
                );
                return Err(error(name, message));
            }
        }
        if local_world_size > world_size {
            let message = format!(
                "found `{local_world_size}` processes of this node, expected no more than {} of \
                 all nodes, which is `{world_size}`",
                self.world_size
            );
            return Err(error(self.local_world_size, message));
        }
        Ok(RankInfo { rank, world_size, local_rank, local_world_size, rendezvous })
    }
}

/// A port that all processes of a job find without asking each other: below those that Linux hands
/// out by itself, and above those of common services.
fn port_of_job(job: &str) -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u64 = 12_000;
    let hash = blake3::hash(job.as_bytes());
    let number = hash.as_bytes().iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    FIRST + (number % COUNT) as u16
}

fn error(variable: &str, message: String) -> ConfigError {
    ConfigError { file: std::path::PathBuf::new(), key: variable.to_string(), message }
}
