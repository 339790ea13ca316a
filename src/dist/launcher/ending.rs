//! How the processes of a node ended.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use signal_hook::consts::SIGKILL;
use signal_hook::low_level::signal_name;

/// How an attempt ended.
#[derive(Debug)]
pub enum Ending {
    /// Every process exited with 0.
    Done,
    /// No process failed, and at least one stopped with its state saved.
    ResumeMe,
    /// A second SIGINT had all processes killed.
    Interrupted,
    Failed(Failure),
}

/// The process that failed first, and how.
#[derive(Debug)]
pub struct Failure {
    pub rank: usize,
    pub how: End,
    /// The last lines of its standard error.
    pub last_lines: Vec<String>,
    /// The launcher had been asked to stop before.
    pub was_asked_to_stop: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "rank {} {}", self.rank, self.how)?;
        if self.last_lines.is_empty() {
            return write!(text, "; it left nothing on standard error");
        }
        write!(text, "; the last lines of its standard error:")?;
        self.last_lines.iter().try_for_each(|line| write!(text, "\n    {line}"))
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    Signal(i32),
}

impl End {
    /// The exit code, or 128 and the signal, as shells have it.
    pub fn code(self) -> i32 {
        match self {
            Self::Exit(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Exit(code),
            (None, signal) => Self::Signal(signal.unwrap_or(SIGKILL)),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exit(code) => write!(text, "exited with code {code}"),
            Self::Signal(signal) => {
                write!(text, "was ended by signal {signal}")?;
                if let Some(name) = signal_name(signal) {
                    write!(text, " ({name})")?;
                }
                if signal == SIGKILL {
                    write!(text, ", which is also how Linux ends a process when memory runs out")?;
                }
                Ok(())
            }
        }
    }
}
