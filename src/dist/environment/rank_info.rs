//! Who a process is among those of its run.

/// The rank of a process and the number of processes, in the run and on its node.
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
    /// The rank of a process that no launcher started: 0 of 1.
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

    /// What tells this process's node from others: its name, and the number of its start, since nodes made from
    /// one image may have one name.
    pub fn node(&self) -> String {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        format!("{name}/{}", boot.trim())
    }
}
