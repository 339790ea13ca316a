//! Starting the processes of one node, and seeing them through to their end.
//!
//! Whatever the processes do, the launcher ends, and none of them is left behind: they are killed
//! after a time of grace, and die with the launcher even if that is killed itself.

mod attempt;
mod bond;
mod ending;
mod lines;

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::warn;

use attempt::Attempt;
pub use bond::die_with_the_launcher;
pub use ending::{End, Ending, Failure};

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
    fn first_rank(&self) -> usize {
        self.node_rank * self.processes
    }

    fn world_size(&self) -> usize {
        self.nodes * self.processes
    }
}

/// Runs the processes to their end, with as many new attempts as are allowed. They die with the
/// thread that calls this, so it must be the main one.
///
/// # Errors
/// A process cannot be started, or one cannot be ended. What goes wrong in the processes
/// themselves is told by the [`Ending`].
pub fn launch(launch: &Launch) -> Result<Ending> {
    let signals = listen()?;
    for attempt in 0.. {
        let port = match launch.port {
            Some(port) => port,
            None => free_port()?,
        };
        let ending = Attempt::start(launch, attempt, port)?.see_through(&signals)?;
        let Ending::Failed(failure) = &ending else { return Ok(ending) };
        let is_retried = !failure.was_asked_to_stop
            && failure.how.code() != launch.usage_code
            && attempt < launch.max_restarts;
        if !is_retried {
            return Ok(ending);
        }
        warn!(
            "{failure}\nrestart {} of {}: all processes start again, from the newest checkpoint",
            attempt + 1,
            launch.max_restarts
        );
    }
    unreachable!("attempts end by returning")
}

/// From here on these signals no longer end this process, but come out of the receiver.
fn listen() -> Result<Receiver<i32>> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGCHLD]).context("cannot listen for signals")?;
    let (sender, receiver) = channel();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().try_for_each(|signal| sender.send(signal)))
        .context("cannot start a thread")?;
    Ok(receiver)
}

/// A port of this machine that nobody listens on at the moment.
fn free_port() -> Result<u16> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .context("cannot find a free port on 127.0.0.1; name one with --master-port")
}
