//! `distill launch`: this program as many processes of one run, on each of its nodes.

use std::env;
use std::ffi::{OsStr, OsString};
use std::num::NonZero;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, Result};
use tch::Cuda;
use tracing::warn;

use super::exit::{DONE, RESUME_ME, WRONG_USAGE};
use super::output::print_error;
use crate::config::ConfigError;
use crate::dist::launcher::{Ending, Launch, launch};
use crate::native::guard;

/// After a second SIGINT: 128 + SIGINT, as shells have it.
const INTERRUPTED: u8 = 130;

const VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";
const SHARED_GPUS: &str = "NCCL_MULTI_RANK_GPU_ENABLE";

const EXAMPLES: &str = "\
Examples:
  distill launch -- --config configs/5b_to_1b_h.toml
  distill launch --nproc-per-node 8 --max-restarts 3 -- --config configs/5b_to_1b_h.toml
  distill launch --nnodes 2 --node-rank 0 --master-addr node-a --master-port 29500 -- --config …

Exit codes: that of the process that failed first (128 and the signal if one ended it), 75 if the
processes stopped with their state saved, 0 if all are done.";

/// Train with many processes: one for each GPU of this machine, and of others
///
/// Starts this program once for each GPU with the arguments after `--`, puts `[rank R] ` before
/// each line that they print, and passes SIGINT and SIGTERM on to them. When one fails, the
/// others are ended; then all start again from the newest checkpoint, if restarts are left. On
/// several nodes the same command runs on each, with a `--node-rank` of its own.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct LaunchArgs {
    /// Processes of this node [default: its GPUs, or 1]
    #[arg(long, value_name = "N")]
    nproc_per_node: Option<NonZero<u16>>,
    /// Nodes of the run
    #[arg(long, value_name = "N", default_value = "1")]
    nnodes: NonZero<u16>,
    /// This node, from 0 on; rank 0 of the run is on node 0
    #[arg(long, value_name = "R")]
    node_rank: Option<u16>,
    /// Host name or address of node 0, as the others reach it [default: 127.0.0.1 for one node]
    #[arg(long, value_name = "HOST")]
    master_addr: Option<String>,
    /// Port of node 0 where rank 0 listens [default: a free one for one node]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    master_port: Option<u16>,
    /// How often all processes are restarted from the newest checkpoint after one has failed
    #[arg(long, value_name = "K", default_value_t = 0)]
    max_restarts: u32,
    /// Seconds between asking the other processes to end, after one has failed, and killing them
    #[arg(long, value_name = "S", default_value_t = 10)]
    grace_seconds: u32,
    /// Arguments of every process, as in `distill --config FILE`
    #[arg(last = true, required = true, value_name = "ARGS")]
    arguments: Vec<OsString>,
}

impl LaunchArgs {
    /// A process for each GPU of this machine, with these arguments.
    pub fn of(arguments: &[&OsStr]) -> Self {
        let one = NonZero::<u16>::MIN;
        Self {
            nproc_per_node: None,
            nnodes: one,
            node_rank: None,
            master_addr: None,
            master_port: None,
            max_restarts: 0,
            grace_seconds: 10,
            arguments: arguments.iter().map(|argument| argument.to_os_string()).collect(),
        }
    }
}

/// Starts the processes and waits for their end; the exit code is theirs.
pub fn run(args: LaunchArgs) -> Result<u8> {
    let launch_description = describe(args)?;
    Ok(match launch(&launch_description)? {
        Ending::Done => DONE,
        Ending::ResumeMe => {
            warn!("stopped with the state saved; the same command continues from there");
            RESUME_ME
        }
        Ending::Interrupted => {
            warn!("a second Ctrl-C: all processes were killed");
            INTERRUPTED
        }
        Ending::Failed(failure) => {
            print_error(&failure.to_string());
            failure.how.code() as u8
        }
    })
}

fn describe(args: LaunchArgs) -> Result<Launch> {
    let gpus = guard(|| Ok(Cuda::device_count()))?.max(0) as usize;
    let processes =
        args.nproc_per_node.map_or(gpus.max(1), |processes| usize::from(processes.get()));
    let nodes = usize::from(args.nnodes.get());
    let several = |key: &str| {
        usage(
            key,
            format!("is missing: {nodes} nodes need --node-rank, --master-addr and --master-port"),
        )
    };
    let (node_rank, host, port) = match nodes {
        1 => (
            args.node_rank.unwrap_or(0),
            args.master_addr.unwrap_or_else(|| "127.0.0.1".into()),
            args.master_port,
        ),
        _ => (
            args.node_rank.ok_or_else(|| several("--node-rank"))?,
            args.master_addr.ok_or_else(|| several("--master-addr"))?,
            Some(args.master_port.ok_or_else(|| several("--master-port"))?),
        ),
    };
    let node_rank = usize::from(node_rank);
    if node_rank >= nodes {
        let message = format!("found `{node_rank}`, expected less than --nnodes, which is {nodes}");
        return Err(usage("--node-rank", message).into());
    }
    let cores = available_parallelism().map_or(1, NonZero::get);
    Ok(Launch {
        program: env::current_exe().context("cannot tell where this program lies")?,
        arguments: args.arguments,
        processes,
        nodes,
        node_rank,
        host,
        port,
        devices: devices(env::var(VISIBLE_DEVICES).ok().as_deref(), gpus, processes)?,
        threads: (cores / processes).max(1),
        max_restarts: args.max_restarts,
        grace: Duration::from_secs(args.grace_seconds.into()),
        resume_code: RESUME_ME.into(),
        usage_code: WRONG_USAGE.into(),
    })
}

/// The GPU that each process alone sees: those that this launcher sees, in order.
fn devices(
    visible: Option<&str>,
    gpus: usize,
    processes: usize,
) -> Result<Vec<String>, ConfigError> {
    if gpus == 0 {
        return Ok(Vec::new());
    }
    // NCCL's own switch for several ranks of one GPU, from its release 2.30 on.
    let is_shared = env::var(SHARED_GPUS).is_ok_and(|value| value == "1");
    if processes > gpus && !is_shared {
        let message = format!(
            "found {processes} processes, but libtorch sees {gpus} GPUs here, and each process \
             needs one; to train on the CPU, set {VISIBLE_DEVICES}= (to nothing)"
        );
        return Err(usage("--nproc-per-node", message));
    }
    Ok(match visible {
        Some(names) => {
            let names: Vec<_> = names.split(',').map(|name| name.trim().to_string()).collect();
            names.into_iter().cycle().take(processes).collect()
        }
        None => (0..processes).map(|index| (index % gpus).to_string()).collect(),
    })
}

fn usage(key: &str, message: String) -> ConfigError {
    ConfigError { file: PathBuf::new(), key: key.into(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each process gets a GPU of its own, out of those that the launcher may use.
    #[test]
    fn each_process_sees_one_gpu() {
        assert_eq!(devices(None, 8, 2).unwrap(), ["0", "1"]);
        assert_eq!(devices(Some("4,GPU-7a, 6"), 3, 3).unwrap(), ["4", "GPU-7a", "6"]);
        assert_eq!(devices(Some(""), 0, 2).unwrap(), [""; 0]);
        let error = devices(Some("4,6"), 2, 3).unwrap_err().to_string();
        assert!(error.contains("3 processes") && error.contains("2 GPUs"), "{error}");
    }
}
