//! Finding tar shards by pattern, where they can only be files.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::source::{ShardAddress, Sources};
use crate::config::DataConfig;

/// The files that `patterns` name; see [`Sources::expand`]. `key` is the configuration key or
/// argument that errors are blamed on.
///
/// # Errors
/// As for [`Sources::expand`], or a shard lies behind a URL.
pub fn expand_patterns(patterns: &[String], key: &str) -> Result<Vec<PathBuf>> {
    let sources = Sources::new(&DataConfig::minimal(Vec::new()))?;
    let file = |shard| match shard {
        ShardAddress::File(path) => Ok(path),
        ShardAddress::Url(_) => bail!("{key}: {shard} is not a file"),
    };
    sources.expand(patterns, key)?.into_iter().map(file).collect()
}
