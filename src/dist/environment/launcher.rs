//! What all kinds of launchers have in common.

use super::rank_info::{RankInfo, Rendezvous};
use super::variables::{MASTER_ADDR, MASTER_PORT, Variables, error};
use crate::config::ConfigError;

/// A launcher, and the variables in which it gives rank and world size.
pub(super) struct Launcher {
    /// The program that users know.
    pub(super) name: &'static str,
    /// Any of these variables shows that the launcher is there.
    pub(super) signs: &'static [&'static str],
    pub(super) rank: &'static str,
    pub(super) world_size: &'static str,
    pub(super) local_rank: &'static str,
    pub(super) local_world_size: &'static str,
    pub(super) rank_info: fn(&Variables) -> Result<RankInfo, ConfigError>,
}

impl Launcher {
    pub(super) fn is_present(&self, variables: &Variables) -> bool {
        self.signs.iter().any(|sign| variables.is_set(sign))
    }

    /// A number that this launcher sets without exception.
    pub(super) fn number(&self, name: &str, variables: &Variables) -> Result<usize, ConfigError> {
        variables.number(name)?.ok_or_else(|| self.missing(name, variables))
    }

    pub(super) fn missing(&self, name: &str, variables: &Variables) -> ConfigError {
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

    /// Checks that this launcher's variables agree with `outer`'s on rank and world size.
    pub(super) fn agrees_with(
        &self,
        outer: &Launcher,
        variables: &Variables,
    ) -> Result<(), ConfigError> {
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

    /// A [`RankInfo`] of these numbers, which are this launcher's, if they fit together.
    pub(super) fn checked(
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
pub(super) fn port_of_job(job: &str) -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u64 = 12_000;
    let hash = blake3::hash(job.as_bytes());
    let number = hash.as_bytes().iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    FIRST + (number % COUNT) as u16
}
