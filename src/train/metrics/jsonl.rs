//! `metrics.jsonl`: one JSON object a line, each step once, and each evaluation of a step.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::durable;

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    file: File,
}

/// The part of a line that resuming looks at, whatever else stands there.
#[derive(Deserialize)]
struct LineStep {
    step: u64,
    /// An evaluation's lines stand after their step's.
    evaluation: Option<String>,
}

impl Lines {
    /// Opens `path` and takes back lines after `resume_step` and lines that a crash tore.
    pub(super) fn open(path: &Path, resume_step: u64) -> Result<Self> {
        take_back(path, resume_step)
            .with_context(|| format!("cannot bring {} to step {resume_step}", path.display()))?;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot open {} for appending", path.display()))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Appends one line with a single write, so that a crash can tear only the last one.
    pub(super) fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .with_context(|| format!("cannot append to {}", self.path.display()))
    }
}

/// Rewrites the file, in one atomic step, if it holds anything but whole lines up to `last_step`.
fn take_back(path: &Path, last_step: u64) -> Result<()> {
    let old = match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let kept = whole_lines(&old, last_step);
    if kept == old {
        return Ok(());
    }
    durable::write(path, &kept)
}

/// The lines of `text` that can be read and whose step is at most `last_step`, by step; the later
/// one where a step, or an evaluation of a step, stands twice.
fn whole_lines(text: &[u8], last_step: u64) -> Vec<u8> {
    let mut by_step = BTreeMap::new();
    for line in text.split(|&byte| byte == b'\n') {
        match serde_json::from_slice::<LineStep>(line) {
            Ok(LineStep { step, evaluation }) if step <= last_step => {
                by_step.insert((step, evaluation), line)
            }
            _ => continue,
        };
    }
    let ended = by_step.values().flat_map(|line| [*line, b"\n".as_slice()]);
    ended.flatten().copied().collect()
}
