//! A sum over processes, as every step of a run on several makes one.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use tch::{Device, Kind, Tensor};

use super::finding::Finding;
use crate::dist::{ProcessGroup, RankInfo, environment};
use crate::native::guard;

const NAME: &str = "exchange";
/// How long ranks may take to meet, and may be silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long two processes of this machine may take altogether.
const LONGEST: Duration = Duration::from_secs(90);
/// Numbers in the sum: 16 MiB.
const NUMBERS: i64 = 4 << 20;

/// What the two processes of a trial compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PairDevice {
    Cpu,
    /// The GPU of each one's number.
    Cuda,
}

impl PairDevice {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// Has the ranks of this launcher sum numbers; `device` is this rank's. All ranks call it.
pub(super) fn among_ranks(rank_info: &RankInfo, device: Device, stop: fn() -> bool) -> Finding {
    of_outcome(sum_over_all(rank_info, device, stop))
}

/// Starts two processes of `program` on this machine and has them sum numbers.
pub(super) fn between_two(program: &Path, device: PairDevice) -> Finding {
    of_outcome(try_between_two(program, device))
}

fn of_outcome(outcome: Result<String>) -> Finding {
    match outcome {
        Ok(found) => Finding::ok(NAME, found),
        Err(error) => Finding::problem(
            NAME,
            format!("{error:#}"),
            "a run of several processes would fail alike: look at firewalls and interfaces \
             (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME; NCCL_DEBUG=INFO tells more)",
        ),
    }
}

/// The part of one of the two processes that [`between_two`] starts; what it found goes to its parent in
/// words.
///
/// # Errors
/// The two do not meet, or sum wrongly.
pub fn exchange_as_one_of_two(device: PairDevice, stop: fn() -> bool) -> Result<String> {
    let place = environment::of_this_process()?;
    let rank_info = place.context("this is for the processes that `distill doctor` starts")?;
    let device = match device {
        PairDevice::Cpu => Device::Cpu,
        PairDevice::Cuda => Device::Cuda(rank_info.local_rank),
    };
    sum_over_all(&rank_info, device, stop)
}

fn sum_over_all(rank_info: &RankInfo, device: Device, stop: fn() -> bool) -> Result<String> {
    let size = rank_info.world_size;
    let group = ProcessGroup::join(rank_info.clone(), device, "doctor", PATIENCE, PATIENCE, stop)?;
    let sum = || {
        let ones = guard(|| Ok(Tensor::ones([NUMBERS], (Kind::Float, device))))?;
        group.sum(&ones)?;
        group.synchronize()?;
        let ends = guard(|| Ok([ones.min(), ones.max()].map(|end| end.double_value(&[]))))?;
        ensure!(ends == [size as f64; 2], "{size} ranks sum ones to {ends:?}");
        Ok(())
    };
    // The first sum opens connections.
    sum()?;
    let begun = Instant::now();
    sum()?;
    let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
    group.leave()?;
    let over = if device.is_cuda() { "NCCL" } else { "Gloo" };
    Ok(format!("{size} ranks over {over} sum 16 MiB in {milliseconds:.0} ms"))
}

fn try_between_two(program: &Path, device: PairDevice) -> Result<String> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let start = |rank: &str| -> Result<Child> {
        let mut command = Command::new(program);
        command.args(["doctor", "--one-of-two", device.name(), "--log-level", "error"]);
        for (name, value) in [
            ("RANK", rank),
            ("LOCAL_RANK", rank),
            ("WORLD_SIZE", "2"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "127.0.0.1"),
            ("MASTER_PORT", &port),
            ("OMP_NUM_THREADS", "1"),
        ] {
            command.env(name, value);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| format!("cannot start {}", program.display()))
    };
    let mut children = vec![start("0")?, start("1")?];
    let begun = Instant::now();
    let is_running = |child: &mut Child| matches!(child.try_wait(), Ok(None));
    while children.iter_mut().any(is_running) && begun.elapsed() < LONGEST {
        thread::sleep(Duration::from_millis(20));
    }
    let mut said = Vec::new();
    for mut child in children {
        // Whoever has ended by itself is not there to be killed.
        let _ = child.kill();
        let status = child.wait()?;
        let (mut found, mut error) = (String::new(), String::new());
        child.stdout.take().context("its output is a pipe")?.read_to_string(&mut found)?;
        child.stderr.take().context("its errors are a pipe")?.read_to_string(&mut error)?;
        if !status.success() {
            let line = error.lines().rev().find_map(|line| line.strip_prefix("error: "));
            bail!("two processes of this machine: {}", line.unwrap_or("one did not end in time"));
        }
        said.push(found.trim().to_string());
    }
    Ok(said.swap_remove(0))
}
