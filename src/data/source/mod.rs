//! Temporary.
mod address;
use crate::config::{ConfigError, DataConfig};
pub use address::ShardAddress;
use anyhow::{Context, Result};
use std::io::{Read, Seek};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub size: u64,
    pub version: u64,
}
pub struct Segment {
    pub path: Arc<Path>,
    pub offset: u64,
    pub length: u64,
}
pub trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}
pub struct Sources;
impl Sources {
    pub fn new(_: &DataConfig) -> Result<Self> {
        Ok(Self)
    }
    pub fn expand(
        &self,
        patterns: &[String],
        key: &'static str,
    ) -> Result<Vec<ShardAddress>, ConfigError> {
        Ok(crate::shards::expand_patterns(patterns, key)?
            .into_iter()
            .map(ShardAddress::File)
            .collect())
    }
    pub fn stamp(&self, shard: &ShardAddress) -> Result<Stamp> {
        let m = shard
            .as_file()
            .unwrap()
            .metadata()
            .with_context(|| format!("{shard}: cannot be read"))?;
        let age = m.modified()?.duration_since(std::time::UNIX_EPOCH)?;
        Ok(Stamp { size: m.len(), version: age.as_nanos() as u64 })
    }
    pub fn open(&self, shard: &ShardAddress) -> Result<Box<dyn ReadSeek + Send>> {
        Ok(Box::new(std::fs::File::open(shard.as_file().unwrap())?))
    }
    pub fn locate(
        &self,
        shard: &ShardAddress,
        _: Stamp,
        range: Range<u64>,
    ) -> Result<Vec<Segment>> {
        Ok(vec![Segment {
            path: shard.as_file().unwrap().into(),
            offset: range.start,
            length: range.end - range.start,
        }])
    }
    pub fn prefetch(&self, _: &ShardAddress, _: Stamp, _: Range<u64>) {}
}
