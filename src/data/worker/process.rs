//! The trainer's side of one worker: started, given jobs, started anew when it dies.

use std::collections::VecDeque;
use std::io::{BufReader, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::image::SamplePlan;
use crate::shared_memory::SharedMemory;

use super::protocol::{Job, Reply, add, flush, receive, send_file};

/// A worker that is silent for this long over one image counts as hung.
const LONGEST_IMAGE: Duration = Duration::from_secs(120);

/// How often one image may crash or hang a worker before it counts as bad.
const CRASHES_OF_AN_IMAGE: usize = 2;

/// How often in a row workers may be killed from outside over the same image.
const KILLS_IN_A_ROW: usize = 50;

/// Signals that do not come from a decoder's own fault; SIGQUIT reaches one before it can ignore it.
const FROM_OUTSIDE: [i32; 3] =
    [signal_hook::consts::SIGKILL, signal_hook::consts::SIGTERM, signal_hook::consts::SIGQUIT];

/// The worker program's exit code after an error that it printed.
const GAVE_UP: i32 = 1;

/// A worker process and its unanswered jobs, which it answers in order.
pub struct WorkerProcess {
    program: PathBuf,
    plan: SamplePlan,
    memory: Arc<SharedMemory>,
    running: Running,
    in_flight: VecDeque<Job>,
    /// Jobs that are not sent yet.
    outgoing: Vec<u8>,
    /// Deaths since the last answer: from within, and from outside.
    crashes: usize,
    kills: usize,
}

struct Running {
    child: Child,
    socket: BufReader<UnixStream>,
}

impl WorkerProcess {
    /// Starts `program`.
    pub fn start(program: &Path, plan: SamplePlan, memory: Arc<SharedMemory>) -> Result<Self> {
        let running = Running::start(program, &plan, &memory)?;
        let program = program.to_path_buf();
        let (in_flight, outgoing) = (VecDeque::new(), Vec::new());
        Ok(Self { program, plan, memory, running, in_flight, outgoing, crashes: 0, kills: 0 })
    }

    /// Process id of the worker as it is now.
    pub fn id(&self) -> u32 {
        self.running.child.id()
    }

    /// Gives it another job, which is sent by [`Self::send`] or with the next wait.
    pub fn give(&mut self, job: Job) -> Result<()> {
        add(&mut self.outgoing, &job)?;
        self.in_flight.push_back(job);
        Ok(())
    }

    /// Sends the jobs that are not sent yet.
    pub fn send(&mut self) {
        // A worker that died meanwhile is found so by `next_answer`, which sends all jobs again.
        let _ = flush(self.running.socket.get_ref(), &mut self.outgoing);
    }

    /// Waits for the answer to the oldest job. A worker that dies over it is replaced by another,
    /// which does its jobs from the beginning.
    ///
    /// # Errors
    /// There is no job, or workers die or fail to start again and again.
    pub fn next_answer(&mut self) -> Result<Reply> {
        ensure!(!self.in_flight.is_empty(), "a worker without a job has no answer");
        self.send();
        loop {
            let death = match self.wait_for_reply() {
                Ok(reply) => {
                    self.in_flight.pop_front();
                    if self.crashes > 0 {
                        self.crashes = 0;
                        self.send_again()?;
                    }
                    self.kills = 0;
                    return Ok(reply);
                }
                Err(death) => death,
            };
            let how = match death {
                Death::GaveUp => {
                    bail!("a decoding worker ended after an error, which it printed above")
                }
                Death::Killed => {
                    self.kills += 1;
                    String::new()
                }
                Death::Crashed(how) => {
                    self.crashes += 1;
                    how
                }
                Death::Hung => {
                    self.crashes += 1;
                    format!("took longer than {} s", LONGEST_IMAGE.as_secs())
                }
            };
            ensure!(
                self.kills < KILLS_IN_A_ROW,
                "decoding workers are killed again and again: is the machine out of memory? Lower \
                 data.workers or data.prefetch_batches"
            );
            let answered = if self.crashes >= CRASHES_OF_AN_IMAGE {
                self.crashes = 0;
                self.in_flight.pop_front();
                Some(Reply::BadSample(format!("the decoder {how}")))
            } else {
                None
            };
            self.replace()?;
            if let Some(answer) = answered {
                return Ok(answer);
            }
        }
    }

    fn wait_for_reply(&mut self) -> Result<Reply, Death> {
        match receive::<Reply>(&mut self.running.socket) {
            Ok(Some(reply)) => Ok(reply),
            // Only its end closes a worker's socket.
            Ok(None) => Err(Death::from_status(self.running.child.wait().ok())),
            Err(error) => {
                let hung = error.downcast_ref::<std::io::Error>().is_some_and(|error| {
                    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
                });
                let status = self.running.end();
                Err(if hung { Death::Hung } else { Death::from_status(status) })
            }
        }
    }

    fn replace(&mut self) -> Result<()> {
        tracing::debug!("a decoding worker died and is replaced");
        self.running = Running::start(&self.program, &self.plan, &self.memory)?;
        if self.crashes == 0 {
            return self.send_again();
        }
        // Replies travel several at a time, so the image at fault may be another one than the
        // oldest without a reply. Alone, that one gets the blame only for what is its own.
        self.in_flight.front().map_or(Ok(()), |oldest| add(&mut self.outgoing, oldest))?;
        self.send();
        Ok(())
    }

    /// Sends all unanswered jobs to a new worker.
    fn send_again(&mut self) -> Result<()> {
        for job in &self.in_flight {
            add(&mut self.outgoing, job)?;
        }
        self.send();
        Ok(())
    }
}

impl Running {
    fn start(program: &Path, plan: &SamplePlan, memory: &SharedMemory) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("cannot make a socket for a worker")?;
        ours.set_read_timeout(Some(LONGEST_IMAGE))?;
        let child = Command::new(program)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start the decoding worker {}; it is installed beside `distill`",
                    program.display()
                )
            })?;
        let running = Self { child, socket: BufReader::new(ours) };
        let socket = running.socket.get_ref();
        let mut outgoing = Vec::new();
        add(&mut outgoing, plan)?;
        // As with jobs: a worker that is dead already is found out when it is asked for.
        let _ = send_file(socket, memory.file()).and_then(|()| flush(socket, &mut outgoing));
        Ok(running)
    }

    /// Ends the process and takes its status, so that no zombie stays.
    fn end(&mut self) -> Option<ExitStatus> {
        let _ = self.child.kill(); // it may have ended by itself
        self.child.wait().ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// How a worker ended.
enum Death {
    /// From outside: an impatient user, or a system without memory.
    Killed,
    /// By a signal or a panic of its own.
    Crashed(String),
    /// It gave up by itself, after saying why.
    GaveUp,
    Hung,
}

impl Death {
    fn from_status(status: Option<ExitStatus>) -> Self {
        match status.map(|status| (status.signal(), status.code())) {
            Some((Some(signal), _)) if FROM_OUTSIDE.contains(&signal) => Self::Killed,
            Some((Some(signal), _)) => Self::Crashed(format!("was ended by signal {signal}")),
            Some((None, Some(GAVE_UP))) => Self::GaveUp,
            Some((None, Some(code))) => Self::Crashed(format!("ended with code {code}")),
            Some((None, None)) | None => Self::Killed,
        }
    }
}
