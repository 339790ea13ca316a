//! What a launcher is asked to start.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What a node's launcher starts.
#[derive(Debug, Clone)]
pub struct Launch {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// Processes of each node.
    pub processes: usize,
    /// Nodes of the run.
    pub nodes: usize,
    /// This node, in `0..nodes`.
    pub node_rank: usize,
    /// Host name or address of the first node.
    pub host: String,
    /// Where rank 0 listens there; without one, which is for a single node, a free port.
    pub port: Option<u16>,
    /// For each process of this node what it sees as `CUDA_VISIBLE_DEVICES`; empty where there is
    /// no GPU.
    pub devices: Vec<String>,
    /// Threads of a process's computation on the CPU.
    pub threads: usize,
    /// How often the processes may be started anew after a failure.
    pub max_restarts: u32,
    /// Time between being told to end and being killed, once a process has failed.
    pub grace: Duration,
    /// Exit code that means "stopped, with the state saved".
    pub resume_code: i32,
    /// Exit code that means "wrong usage or configuration": another attempt would fail alike.
    pub usage_code: i32,
}

impl Launch {
    pub(super) fn first_rank(&self) -> usize {
        self.node_rank * self.processes
    }

    pub(super) fn world_size(&self) -> usize {
        self.nodes * self.processes
    }
}
