//! One file of a repository: fetched where it is not here, from where an earlier connection was cut.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use backon::{BackoffBuilder, ExponentialBuilder};
use sha2::{Digest, Sha256};
use tracing::warn;

use super::address::Address;
use super::cache::{Cache, make_folder};
use super::lock;
use super::server::{Failure, FileFacts, Piece, Server};
use crate::ui::screen::Phase;

/// How often a question is asked again that got no answer, and the bytes of a file that none came of.
const RETRIES: [usize; 2] = [3, 6];

/// Does `work`, again after ever longer waits while what fails may pass.
///
/// # Errors
/// It fails for good, or too often.
pub(super) fn patiently<T>(mut work: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut waits = waits(RETRIES[0]);
    loop {
        match (work(), waits.next()) {
            (Err(Failure::Passing(error)), Some(wait)) => tell_wait(&error, wait),
            (done, _) => return done,
        }
    }
}

fn waits(retries: usize) -> impl Iterator<Item = Duration> {
    let backoff = ExponentialBuilder::default().with_min_delay(Duration::from_millis(500));
    backoff.with_max_delay(Duration::from_secs(30)).with_jitter().with_max_times(retries).build()
}

fn tell_wait(error: &Error, wait: Duration) {
    warn!("{error:#}; again in {:.1} s", wait.as_secs_f64());
}

/// Has the file `name` of the commit of `address` be in the cache.
///
/// # Errors
/// It cannot be fetched or written, or what came is damaged.
pub(super) fn bring(
    server: &Server,
    cache: &Cache,
    address: &Address,
    name: &str,
) -> Result<(), Failure> {
    let commit = address.revision();
    if cache.snapshot(commit).join(name).is_file() {
        return Ok(());
    }
    let facts = patiently(|| server.file(address, name))?;
    let blob = cache.blob(&facts.tag);
    // The same lock as Python's, which may fetch the same file.
    let _lock = lock::hold(&cache.lock(&facts.tag), name).map_err(Failure::Lasting)?;
    if !blob.is_file() {
        let part = cache.blob(&format!("{}.incomplete", facts.tag));
        make_folder(&part).map_err(Failure::Lasting)?;
        fetch(server, address, name, &facts, &part)?;
        let kept = fs::rename(&part, &blob);
        kept.with_context(|| format!("cannot keep {}", blob.display()))
            .map_err(Failure::Lasting)?;
    }
    cache.link(commit, name, &facts.tag).map_err(Failure::Lasting)
}

/// Fills the file `part`, from where it ends.
fn fetch(
    server: &Server,
    address: &Address,
    name: &str,
    facts: &FileFacts,
    part: &Path,
) -> Result<(), Failure> {
    let mut file = Part::open(part, facts.size).map_err(Failure::Lasting)?;
    let label = format!("fetching {name} of {}", address.repository());
    let bar = Phase::of_bytes(&label, facts.size);
    bar.advance(file.length);
    let mut waits = waits(RETRIES[1]);
    while file.length < facts.size {
        let before = file.length;
        let outcome = server.fetch(address, name, file.length, &mut |piece| match piece {
            Piece::Anew => file.empty(),
            Piece::Bytes(bytes) => {
                bar.advance(bytes.len() as u64);
                file.append(bytes)
            }
        });
        let error = match outcome {
            Ok(()) if file.length == facts.size => break,
            Ok(()) => anyhow!("{name} broke off at byte {} of {}", file.length, facts.size),
            Err(Failure::Passing(error)) => error,
            Err(lasting) => return Err(lasting),
        };
        if file.length > before {
            // It goes on: only silence is counted.
            waits = self::waits(RETRIES[1]);
        }
        match waits.next() {
            Some(wait) => tell_wait(&error, wait),
            None => return Err(Failure::Passing(error)),
        }
    }
    file.file.sync_all().map_err(|error| Failure::Lasting(file.unwritten(error)))?;
    bar.finish();
    check(part, facts).map_err(|error| {
        // What is damaged would be gone on with for ever.
        _ = fs::remove_file(part);
        Failure::Lasting(error.context(format!("{name} of {} came damaged", address.repository())))
    })
}

/// A file that is not whole yet.
struct Part<'a> {
    path: &'a Path,
    file: File,
    length: u64,
    most: u64,
}

impl<'a> Part<'a> {
    fn open(path: &'a Path, most: u64) -> Result<Self> {
        let context = || format!("cannot write {}", path.display());
        let file = File::options().create(true).append(true).open(path).with_context(context)?;
        let length = file.metadata().with_context(context)?.len();
        let mut part = Self { path, file, length, most };
        if length > most {
            part.empty()?;
        }
        Ok(part)
    }

    fn empty(&mut self) -> Result<()> {
        self.length = 0;
        self.file.set_len(0).map_err(|error| self.unwritten(error))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        ensure!(
            self.length + bytes.len() as u64 <= self.most,
            "more came than the file is said to hold"
        );
        self.file.write_all(bytes).map_err(|error| self.unwritten(error))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn unwritten(&self, error: io::Error) -> Error {
        Error::new(error).context(format!("cannot write {}", self.path.display()))
    }
}

/// That `part` is what its tag says: the tags of large files are their SHA-256.
fn check(part: &Path, facts: &FileFacts) -> Result<()> {
    if facts.tag.len() != 64 {
        return Ok(());
    }
    let mut hash = Sha256::new();
    let mut file = File::open(part)?;
    io::copy(&mut file, &mut hash)?;
    let found = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if !found.eq_ignore_ascii_case(&facts.tag) {
        bail!("its SHA-256 is {found}, and {} is expected: start again", facts.tag);
    }
    Ok(())
}
