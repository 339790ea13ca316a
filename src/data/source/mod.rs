//! Where shards lie, and how their bytes come here.
//!
//! A shard is a file or an object behind a URL: [`address`] names it, [`pattern`] finds many.
//! Objects are fetched by [`store`], which speaks [`s3`] or [`http`] and tries again where that
//! may help ([`failure`]). [`remote`] fetches them in pieces into the [`cache`] that all processes
//! of a machine share, and [`reader`] passes once over a whole object without it. For files there
//! is none of this: no thread, no folder, no copy.

mod address;
mod answer;
mod cache;
mod failure;
mod http;
mod pattern;
mod reader;
mod remote;
mod s3;
mod store;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};

use crate::config::DataConfig;

pub use address::ShardAddress;
pub use store::Transfer;

use cache::LEAST_PIECES;
use reader::ObjectReader;
use remote::Remote;

/// How often a piece that was evicted before it was read is located again.
const LOCATED_AGAIN: usize = 100;

/// What tells one state of a shard from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// Of a file: its modification time in nanoseconds. Of an object: a hash of its `ETag`, or of
    /// its `Last-Modified` where it has none.
    pub version: u64,
}

impl Stamp {
    fn of_object(size: u64, version: &[u8]) -> Self {
        let hash = blake3::hash(version);
        let version = hash.as_bytes().iter().take(8).fold(0, |sum, &b| sum << 8 | u64::from(b));
        Self { size, version }
    }

    fn of_file(path: &Path) -> io::Result<Self> {
        let metadata = path.metadata()?;
        let modified =
            metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let version = modified.map_or(0, |age| age.as_nanos() as u64);
        Ok(Self { size: metadata.len(), version })
    }
}

/// A part of a local file. Consecutive ones together are a byte range of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub path: Arc<Path>,
    pub offset: u64,
    pub length: u64,
}

/// What is read in one pass.
pub trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

/// Access to shards, wherever they are. Threads and folders for objects behind URLs come into
/// being when the first such shard is used.
pub struct Sources {
    cache_dir: Option<PathBuf>,
    cache_gigabytes: f64,
    transfer: Transfer,
    remote: OnceLock<Remote>,
    starting: Mutex<()>,
}

impl Sources {
    /// Sources with the cache that `config` names.
    ///
    /// # Errors
    /// The cache is too small for a few pieces.
    pub fn new(config: &DataConfig) -> Result<Self> {
        Self::with_transfer(config, Transfer::default())
    }

    /// As [`Sources::new`], with other sizes and waits.
    ///
    /// # Errors
    /// As for [`Sources::new`].
    pub fn with_transfer(config: &DataConfig, transfer: Transfer) -> Result<Self> {
        let least = (LEAST_PIECES * transfer.piece_bytes) as f64 / 1e9;
        ensure!(
            config.cache_gigabytes >= least,
            "data.cache_gigabytes = {} is too small; expected at least {least}",
            config.cache_gigabytes
        );
        Ok(Self {
            cache_dir: config.cache_dir.clone(),
            cache_gigabytes: config.cache_gigabytes,
            transfer,
            remote: OnceLock::new(),
            starting: Mutex::default(),
        })
    }

    /// The shards that `patterns` name: brace ranges `{000..127}` and lists `{a,b}` are spelled
    /// out, then `*`, `?` and `[...]` matched against files and objects of S3. Sorted within a
    /// pattern; a shard named twice counts once, at its first place.
    ///
    /// # Errors
    /// A [`crate::config::ConfigError`] about `key` where a pattern, or one spelling of a brace
    /// pattern, matches nothing, or has a wildcard that cannot be matched. Otherwise, a bucket
    /// cannot be listed. A URL without wildcards is not asked for.
    pub fn expand(&self, patterns: &[String], key: &str) -> Result<Vec<ShardAddress>> {
        pattern::expand(patterns, key, &|bucket, folder, deep| {
            self.remote()?.store().list(bucket, folder, deep)
        })
    }

    /// The state that a shard is in.
    ///
    /// # Errors
    /// There is no such shard, or it cannot be accessed.
    pub fn stamp(&self, shard: &ShardAddress) -> Result<Stamp> {
        match shard {
            ShardAddress::File(path) => Stamp::of_file(path).with_context(|| shard.to_string()),
            ShardAddress::Url(url) => self.remote()?.store().stamp(url),
        }
    }

    /// The shard for one pass from its begin to its end, as for an index. Objects are read in
    /// large parts, ahead of their use, and not kept.
    ///
    /// # Errors
    /// There is no such shard, or it cannot be accessed. Reading fails if it cannot be any more,
    /// or if an object changes.
    pub fn open(&self, shard: &ShardAddress) -> Result<Box<dyn ReadSeek + Send>> {
        Ok(match shard {
            ShardAddress::File(path) => {
                Box::new(File::open(path).with_context(|| shard.to_string())?)
            }
            ShardAddress::Url(url) => {
                let store = self.remote()?.store();
                Box::new(ObjectReader::new(store.clone(), url, store.stamp(url)?))
            }
        })
    }

    /// The bytes of `range` of a shard in the state `stamp`, as parts of local files. A file is
    /// its own part, without a look at it; of an object, the pieces that are missing are fetched
    /// into the cache first. A piece may be evicted again before it is opened, which then fails
    /// as for a file that is not there: locate it again.
    ///
    /// # Errors
    /// An object cannot be fetched, or is not in the state `stamp` any more; `range` is beyond its
    /// end; the disk is full.
    pub fn locate(
        &self,
        shard: &ShardAddress,
        stamp: Stamp,
        range: Range<u64>,
    ) -> Result<Vec<Segment>> {
        match shard {
            ShardAddress::File(path) => {
                let length = range.end.saturating_sub(range.start);
                Ok(vec![Segment { path: path.as_path().into(), offset: range.start, length }])
            }
            ShardAddress::Url(url) => self.remote()?.locate(url, stamp, range),
        }
    }

    /// A hint that `range` is wanted soon. Returns at once: files are read ahead by the system,
    /// objects in the background. Hints beyond what can be queued are dropped.
    pub fn prefetch(&self, shard: &ShardAddress, stamp: Stamp, range: Range<u64>) {
        match shard {
            ShardAddress::File(path) => {
                if let Ok(file) = File::open(path) {
                    let length = std::num::NonZeroU64::new(range.end.saturating_sub(range.start));
                    let advice = rustix::fs::Advice::WillNeed;
                    _ = rustix::fs::fadvise(&file, range.start, length, advice);
                }
            }
            ShardAddress::Url(url) => {
                // What keeps the cache from being opened is an error of `locate`.
                if let Ok(remote) = self.remote() {
                    remote.prefetch(url, stamp, range);
                }
            }
        }
    }

    /// Fills `buffer` with the bytes of `range`: [`Sources::locate`], and reads.
    ///
    /// # Errors
    /// As for [`Sources::locate`], or a file cannot be read.
    pub fn read(
        &self,
        shard: &ShardAddress,
        stamp: Stamp,
        range: Range<u64>,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        let mut tries = 0;
        loop {
            let segments = self.locate(shard, stamp, range.clone())?;
            match read_segments(&segments, buffer) {
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && shard.as_file().is_none()
                        && tries < LOCATED_AGAIN =>
                {
                    tries += 1;
                }
                result => {
                    return result.with_context(|| format!("{shard}: cannot read bytes {range:?}"));
                }
            }
        }
    }

    fn remote(&self) -> Result<&Remote> {
        if let Some(remote) = self.remote.get() {
            return Ok(remote);
        }
        let _starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remote) = self.remote.get() {
            return Ok(remote);
        }
        let folder = self.cache_dir.as_deref();
        let remote = Remote::start(folder, self.cache_gigabytes, self.transfer.clone())?;
        Ok(self.remote.get_or_init(|| remote))
    }
}

fn read_segments(segments: &[Segment], buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    for Segment { path, offset, length } in segments {
        let start = buffer.len();
        buffer.resize(start + *length as usize, 0);
        File::open(path)?.read_exact_at(&mut buffer[start..], *offset)?;
    }
    Ok(())
}
