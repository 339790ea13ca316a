//! Access to the bytes of shards, wherever they are.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, bail, ensure};

use crate::config::DataConfig;
use crate::labels::read_classes;

use super::address::ShardAddress;
use super::cache::LEAST_PIECES;
use super::pattern;
use super::reader::ObjectReader;
use super::remote::Remote;
use super::segment::{Segment, read_segments};
use super::stamp::Stamp;
use super::store::Transfer;

/// How often a piece that was evicted before it was read is located again.
const LOCATED_AGAIN: usize = 100;

/// What is read in one pass.
pub trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

/// Access to shards, wherever they are. Threads and folders for objects behind URLs come into
/// being when the first such shard is used.
pub struct Sources {
    cache_dir: Option<PathBuf>,
    cache_gigabytes: f64,
    /// The list that numbers class folders.
    classes: Option<PathBuf>,
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
            classes: config.classes.clone(),
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
    /// A [`distill_base::ConfigError`] about `key` where a pattern, or one spelling of a brace
    /// pattern, matches nothing, or has a wildcard that cannot be matched. Otherwise, a bucket
    /// cannot be listed. A URL without wildcards is not asked for.
    pub fn expand(&self, patterns: &[String], key: &str) -> Result<Vec<ShardAddress>> {
        let classes = match &self.classes {
            None => None,
            Some(path) => Some((read_classes(path).context("data.classes")?, path.as_path())),
        };
        pattern::expand(patterns, key, classes, &|bucket, folder, deep| {
            self.remote()?.store().list(bucket, folder, deep)
        })
    }

    /// The state that a shard is in.
    ///
    /// # Errors
    /// There is no such shard, or it cannot be accessed.
    pub fn stamp(&self, shard: &ShardAddress) -> Result<Stamp> {
        match shard {
            ShardAddress::File(path) => Stamp::from_file(path).with_context(|| shard.to_string()),
            ShardAddress::Url(url) => self.remote()?.store().stamp(url),
            ShardAddress::Bundle(bundle) => Ok(bundle.stamp()),
        }
    }

    /// The shard for one pass from its begin to its end, as for an index. Objects are read in
    /// large parts, ahead of their use, and not kept.
    ///
    /// # Errors
    /// There is no such shard, it cannot be accessed, or it is a bundle, which has no need of an index.
    /// Reading fails if it cannot be any more, or if an object changes.
    pub fn open(&self, shard: &ShardAddress) -> Result<Box<dyn ReadSeek + Send>> {
        Ok(match shard {
            ShardAddress::File(path) => {
                Box::new(File::open(path).with_context(|| shard.to_string())?)
            }
            ShardAddress::Url(url) => {
                let store = self.remote()?.store();
                Box::new(ObjectReader::new(store.clone(), url, store.stamp(url)?))
            }
            ShardAddress::Bundle(bundle) => bail!("{}: not one file", bundle.name()),
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
            ShardAddress::Bundle(bundle) => Ok(vec![bundle.locate(range)]),
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
            // Small files: the system reads them ahead when they are opened.
            ShardAddress::Bundle(_) => {}
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
                        && !shard.is_local()
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
