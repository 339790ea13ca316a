//! One attempt: the processes of this node from their start to the end of the last one.

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGQUIT};
use tracing::{info, warn};

use super::ending::{End, Ending, Failure};
use super::lines::{LastLines, Stream, merge};
use super::plan::Launch;
use crate::ONE_INTERRUPT;
use crate::dist::environment::LAUNCH_MARK;

/// Only a process inside a driver or a network file system can outlive SIGKILL for so long.
const LONGEST_DEATH: Duration = Duration::from_secs(30);

/// How long the last output may take once all processes are gone. Only a process that none of
/// them is the parent of can still hold it open.
const LONGEST_OUTPUT: Duration = Duration::from_secs(2);

/// The processes of one attempt. Those that still run are killed when this is dropped.
pub(super) struct Attempt<'a> {
    launch: &'a Launch,
    processes: Vec<Process>,
    /// Closed when all output of all processes is handed on.
    output: Receiver<Infallible>,
    asked_to_stop: bool,
    interrupted: Option<Instant>,
    is_interrupted_twice: bool,
    /// The first that failed, by its place in `processes`.
    failed: Option<usize>,
    /// When the next harsher means is due.
    deadline: Option<Instant>,
    killed: bool,
}

struct Process {
    rank: usize,
    child: Child,
    id: Pid,
    last_lines: LastLines,
    end: Option<End>,
}

impl<'a> Attempt<'a> {
    pub(super) fn start(launch: &'a Launch, attempt: u32, port: u16) -> Result<Self> {
        let (open, output) = channel();
        let mut this = Self {
            launch,
            processes: Vec::new(),
            output,
            asked_to_stop: false,
            interrupted: None,
            is_interrupted_twice: false,
            failed: None,
            deadline: None,
            killed: false,
        };
        for local_rank in 0..launch.processes {
            let command = command(launch, local_rank, attempt, port);
            let process = Process::start(command, launch.first_rank() + local_rank, &open)?;
            this.processes.push(process);
        }
        info!(
            attempt,
            "started {} of {}; they meet at {}:{port}",
            ranks(launch.first_rank(), launch.processes),
            launch.world_size(),
            launch.host
        );
        Ok(this)
    }

    /// Waits until all processes have ended, and sees to it that they do when one has failed.
    pub(super) fn see_through(mut self, signals: &Receiver<i32>) -> Result<Ending> {
        loop {
            self.take_ended()?;
            if self.running().next().is_none() {
                break;
            }
            let signal = match self.deadline {
                None => signals.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => {
                    signals.recv_timeout(deadline.saturating_duration_since(Instant::now()))
                }
            };
            match signal {
                Ok(SIGCHLD) => {}
                Ok(SIGQUIT) => self.ask_for_status(),
                Ok(signal) => self.pass_on(signal),
                Err(RecvTimeoutError::Timeout) => self.lose_patience()?,
                Err(RecvTimeoutError::Disconnected) => bail!("the thread for signals is gone"),
            }
        }
        // All senders are dropped when all is handed on, which is what is waited for.
        let _ = self.output.recv_timeout(LONGEST_OUTPUT);
        Ok(self.ending())
    }

    /// The time of grace is over: kills, or gives up what cannot be killed.
    fn lose_patience(&mut self) -> Result<()> {
        if self.killed {
            let left: Vec<_> = self.running().map(Process::name).collect();
            bail!(
                "killed, but still there: {}; a driver or a network file system holds them. This \
                 machine may need a restart",
                left.join(", ")
            );
        }
        for process in self.running() {
            let grace = self.launch.grace.as_secs();
            warn!("rank {} did not end within {grace} s and is killed", process.rank);
        }
        self.kill();
        Ok(())
    }

    fn running(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(|process| process.end.is_none())
    }

    /// Takes the status of every process that has ended since, and acts on a first failure.
    fn take_ended(&mut self) -> Result<()> {
        let mut failed = Vec::new();
        for (index, process) in self.processes.iter_mut().enumerate() {
            if let Some(end) = process.take_end()?
                && !matches!(end.code(), 0)
                && end != End::Exit(self.launch.resume_code)
            {
                failed.push((index, end));
            }
        }
        // Of several at once, one that was killed is the cause, and an error of losing it is not.
        failed.sort_by_key(|(_, end)| matches!(end, End::Exit(_)));
        if let (None, Some((index, end))) = (self.failed, failed.first()) {
            self.failed = Some(*index);
            self.take_down(*index, *end);
        }
        Ok(())
    }

    /// Tells the others to end, since the process at `failed` cannot go on with them.
    fn take_down(&mut self, failed: usize, end: End) {
        if self.running().next().is_none() || self.killed {
            return;
        }
        warn!("rank {} {end}; the others are told to end", self.processes[failed].rank);
        self.send(Signal::TERM);
        self.deadline = Some(Instant::now() + self.launch.grace);
    }

    /// Hands a signal to the processes: each is in a group of its own, so that a terminal's
    /// Ctrl-C reaches it this way alone. A second SIGINT kills them, unless it comes so soon that a terminal
    /// and a wrapper have sent one and the same.
    fn pass_on(&mut self, signal: i32) {
        self.asked_to_stop = true;
        if signal == SIGINT {
            if self.interrupted.is_some_and(|first| first.elapsed() < ONE_INTERRUPT) {
                return;
            }
            if self.interrupted.replace(Instant::now()).is_some() {
                self.is_interrupted_twice = true;
                return self.kill();
            }
        }
        self.send(if signal == SIGINT { Signal::INT } else { Signal::TERM });
    }

    /// Has every process print where it is, and goes on. A process that does not listen, because it
    /// starts just now or does something else than training, would end by the signal: it is named.
    fn ask_for_status(&self) {
        for process in self.running() {
            if is_caught(process.id, SIGQUIT) {
                let _ = kill_process(process.id, Signal::QUIT);
            } else {
                warn!("{} runs, but does not answer SIGQUIT", process.name());
            }
        }
    }

    fn send(&self, signal: Signal) {
        for process in self.running() {
            // It may be dead, but its number is its own until its status is taken.
            let _ = kill_process(process.id, signal);
        }
    }

    fn kill(&mut self) {
        self.running().for_each(Process::kill);
        self.killed = true;
        self.deadline = Some(Instant::now() + LONGEST_DEATH);
    }

    fn ending(&self) -> Ending {
        let resumes = |process: &Process| process.end == Some(End::Exit(self.launch.resume_code));
        let failed = self.failed.map(|index| &self.processes[index]);
        match failed {
            _ if self.is_interrupted_twice => Ending::Interrupted,
            Some(Process { rank, end: Some(how), last_lines, .. }) => Ending::Failed(Failure {
                rank: *rank,
                how: *how,
                last_lines: last_lines.take(),
                was_asked_to_stop: self.asked_to_stop,
            }),
            _ if self.processes.iter().any(resumes) => Ending::ResumeMe,
            _ => Ending::Done,
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.running().for_each(Process::kill);
    }
}

impl Process {
    /// Starts a process, and threads that hand on its output for as long as they hold `open`.
    fn start(mut command: Command, rank: usize, open: &Sender<Infallible>) -> Result<Self> {
        let mut child = command.spawn().with_context(|| format!("cannot start rank {rank}"))?;
        let id = Pid::from_child(&child);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let last_lines = LastLines::default();
        let this = Self { rank, child, id, last_lines: last_lines.clone(), end: None };
        let prefix = format!("[rank {rank}] ");
        let threads = [
            this.reader(open, {
                let prefix = prefix.clone();
                move || stdout.into_iter().for_each(|from| merge(from, &prefix, Stream::Out, None))
            }),
            this.reader(open, move || {
                let last = Some(&last_lines);
                stderr.into_iter().for_each(|from| merge(from, &prefix, Stream::Err, last));
            }),
        ];
        for thread in threads {
            if thread.is_err() {
                this.kill();
            }
            thread?;
        }
        Ok(this)
    }

    fn reader(
        &self,
        open: &Sender<Infallible>,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        let open = open.clone();
        thread::Builder::new()
            .name(format!("rank {}", self.rank))
            .spawn(move || {
                work();
                drop(open);
            })
            .context("cannot start a thread")?;
        Ok(())
    }

    /// How it ended, once: when that is found out. What it started itself is then killed.
    fn take_end(&mut self) -> Result<Option<End>> {
        let fail = || format!("cannot wait for rank {}", self.rank);
        if self.end.is_some() {
            return Ok(None);
        }
        // Left a zombie for a moment, it holds its number, so that nobody else's group is killed.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if waitid(WaitId::Pid(self.id), look).with_context(fail)?.is_none() {
            return Ok(None);
        }
        self.kill();
        self.end = Some(self.child.wait().with_context(fail)?.into());
        Ok(self.end)
    }

    /// Kills it and all of its group: its data workers.
    fn kill(&self) {
        // It may be gone already.
        let _ = kill_process_group(self.id, Signal::KILL);
    }

    fn name(&self) -> String {
        format!("rank {} (process {})", self.rank, self.id.as_raw_nonzero())
    }
}

/// The program as one of the run's processes.
fn command(launch: &Launch, local_rank: usize, attempt: u32, port: u16) -> Command {
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        // This launcher may run under torchrun: what that says is not about these processes.
        .env_remove("TORCHELASTIC_RUN_ID")
        .env_remove("TORCHELASTIC_USE_AGENT_STORE")
        .env("TORCHELASTIC_RESTART_COUNT", attempt.to_string())
        .env("RANK", (launch.first_rank() + local_rank).to_string())
        .env("WORLD_SIZE", launch.world_size().to_string())
        .env("LOCAL_RANK", local_rank.to_string())
        .env("LOCAL_WORLD_SIZE", launch.processes.to_string())
        .env("MASTER_ADDR", &launch.host)
        .env("MASTER_PORT", port.to_string())
        .env(LAUNCH_MARK, std::process::id().to_string());
    if let Some(device) = launch.devices.get(local_rank) {
        command.env("CUDA_VISIBLE_DEVICES", device);
    }
    if std::env::var_os("OMP_NUM_THREADS").is_none_or(|threads| threads.is_empty()) {
        command.env("OMP_NUM_THREADS", launch.threads.to_string());
    }
    command
}

/// Whether a process has a handler for `signal`.
fn is_caught(process: Pid, signal: i32) -> bool {
    let status = format!("/proc/{}/status", process.as_raw_nonzero());
    let status = std::fs::read_to_string(status).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

fn ranks(first: usize, count: usize) -> String {
    match count {
        1 => format!("rank {first}"),
        _ => format!("ranks {first} to {}", first + count - 1),
    }
}
