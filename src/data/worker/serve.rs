//! The worker's side: jobs in, crops and replies out, until the trainer is gone.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use quick_cache::unsync::Cache;
use rustix::process::{Resource, Signal, getrlimit, set_parent_process_death_signal};

use crate::image::{ImageStats, SampleDecoder, SamplePlan};
use crate::shared_memory::SlotWriter;

use super::protocol::{FileSegment, Job, PROGRAM, Reply, add, flush, receive, receive_file};

/// Files that are kept open at a time.
const OPEN_FILES: usize = 64;
/// Handles that a worker needs for other things, those it inherits included.
const OTHER_HANDLES: u64 = 32;

/// Fewer where a process may have few handles.
fn files_to_keep_open() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    OPEN_FILES.min(limit.saturating_sub(OTHER_HANDLES).max(2) as usize)
}

/// Replies that are sent together at most, and how long the first may wait for the others.
const MOST_REPLIES: usize = 4;
const LONGEST_REPLY_DELAY: Duration = Duration::from_millis(5);

/// Signals that a terminal or a scheduler sends to every process of a run. The trainer decides
/// when its workers end.
const LEFT_TO_THE_TRAINER: [i32; 7] = [
    signal_hook::consts::SIGINT,
    signal_hook::consts::SIGTERM,
    signal_hook::consts::SIGHUP,
    signal_hook::consts::SIGQUIT,
    signal_hook::consts::SIGUSR1,
    signal_hook::consts::SIGUSR2,
    signal_hook::consts::SIGXCPU,
];

/// The worker program: works for the trainer whose socket stands in for standard input.
pub fn main() -> ExitCode {
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    match stdin.map_err(anyhow::Error::from).and_then(|socket| serve(socket.into())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text =
                format!("error: {PROGRAM}: {error:#}; it is started by `distill`, not by hand");
            // Nobody may read it any more.
            let _ = writeln!(io::stderr(), "{text}");
            ExitCode::FAILURE
        }
    }
}

/// Does the jobs of the trainer at the other end of `socket`, until it closes the socket or dies.
///
/// # Errors
/// A message is of another version, or the shared memory cannot be mapped.
fn serve(socket: UnixStream) -> Result<()> {
    // A worker that waits sees the closed socket. One inside a decoder that never ends does not.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    for signal in LEFT_TO_THE_TRAINER {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    let memory = SlotWriter::map(receive_file(&socket)?)?;
    let mut incoming = BufReader::new(&socket);
    let Some(plan) = receive::<SamplePlan>(&mut incoming)? else { return Ok(()) };
    let mut worker = Worker::new(plan, memory);
    let mut replies = Replies::default();
    while let Some(job) = receive::<Job>(&mut incoming)? {
        replies.add(&worker.work(&job)?)?;
        // With another job at hand, replies may wait for a few more.
        let idle = incoming.buffer().is_empty();
        if (idle || replies.are_due()) && replies.send(&socket).is_err() {
            return Ok(()); // the trainer is gone
        }
    }
    Ok(())
}

/// Replies that are sent together: each message costs both sides a few microseconds.
#[derive(Default)]
struct Replies {
    outgoing: Vec<u8>,
    count: usize,
    first: Option<Instant>,
}

impl Replies {
    fn add(&mut self, reply: &Reply) -> Result<()> {
        self.count += 1;
        self.first.get_or_insert_with(Instant::now);
        add(&mut self.outgoing, reply)
    }

    fn are_due(&self) -> bool {
        self.count == MOST_REPLIES
            || self.first.is_some_and(|first| first.elapsed() > LONGEST_REPLY_DELAY)
    }

    fn send(&mut self, socket: &UnixStream) -> Result<()> {
        (self.count, self.first) = (0, None);
        flush(socket, &mut self.outgoing)
    }
}

struct Worker {
    plan: SamplePlan,
    /// Bytes of each field of a sample.
    field_bytes: Vec<usize>,
    memory: SlotWriter,
    files: Cache<Vec<u8>, Arc<File>>,
    encoded: Vec<u8>,
    decoder: SampleDecoder,
}

impl Worker {
    fn new(plan: SamplePlan, memory: SlotWriter) -> Self {
        Self {
            field_bytes: plan.field_bytes(),
            plan,
            memory,
            files: Cache::new(files_to_keep_open()),
            encoded: Vec::new(),
            decoder: SampleDecoder::default(),
        }
    }

    fn work(&mut self, job: &Job) -> Result<Reply> {
        let mut image: Option<ImageStats> = None;
        for (field, part) in job.fields.iter().enumerate() {
            if let Err(error) = self.read(&part.segments) {
                let file_is_gone = error
                    .downcast_ref::<io::Error>()
                    .is_some_and(|error| error.kind() == io::ErrorKind::NotFound);
                return Ok(Reply::Unreadable { message: format!("{error:#}"), file_is_gone });
            }
            let Self { plan, field_bytes, memory, encoded, decoder, .. } = self;
            let bytes = *field_bytes.get(field).context("a job of more fields than are planned")?;
            let slot = part.slot as usize;
            let out = memory.range(slot..slot.saturating_add(bytes))?;
            let made = decoder.field(plan, field, (job.position, image), encoded, out);
            decoder.forget_huge(encoded);
            match made {
                Ok(found) => image = Some(found),
                Err(error) => return Ok(Reply::BadSample(format!("{error:#}"))),
            }
        }
        image.map(Reply::Done).context("a job without an image")
    }

    fn read(&mut self, segments: &[FileSegment]) -> Result<()> {
        let length: u64 = segments.iter().map(|segment| segment.length).sum();
        self.encoded.resize(usize::try_from(length)?, 0);
        let mut rest = &mut self.encoded[..];
        for segment in segments {
            let (piece, others) = rest.split_at_mut(segment.length as usize);
            let path = Path::new(std::ffi::OsStr::from_bytes(&segment.path));
            let mut read = || -> io::Result<()> {
                let file = match self.files.get(&segment.path) {
                    Some(file) => file.clone(),
                    None => Arc::new(File::open(path)?),
                };
                file.read_exact_at(piece, segment.offset)?;
                self.files.insert(segment.path.clone(), file);
                Ok(())
            };
            read().with_context(|| format!("{} at byte {}", path.display(), segment.offset))?;
            rest = others;
        }
        Ok(())
    }
}
