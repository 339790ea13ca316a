//! The formats that are known, and the choice among them.

use std::fmt::Display;
use std::io::SeekFrom;

use anyhow::{Context, Error, Result, anyhow};

use crate::labels::Wanted;
use crate::source::ReadSeek;

use super::index::ShardIndex;
use super::shard_format::ShardFormat;
use super::tar::Tar;

/// How many of a shard's first bytes tell its format.
pub const BEGINNING_BYTES: usize = 512;

/// Every format, in the order of asking. Tar comes last: it takes what is too short to tell.
pub const FORMATS: &[&dyn ShardFormat] = &[&Tar];

/// Lists the samples of `shard`, which has `length` bytes, whatever its format is. `name` is the
/// shard's in messages.
///
/// # Errors
/// Its format is not known, it is damaged or cut off, or it holds no image.
pub fn index_shard(
    shard: &mut dyn ReadSeek,
    length: u64,
    wanted: &Wanted,
    name: &dyn Display,
) -> Result<ShardIndex> {
    let mut index = || {
        let mut beginning = vec![0; length.min(BEGINNING_BYTES as u64) as usize];
        shard.read_exact(&mut beginning)?;
        shard.seek(SeekFrom::Start(0))?;
        format_of(&beginning)?.index(shard, length, wanted)
    };
    index().with_context(|| format!("{name}: cannot be indexed"))
}

/// The format of a shard that begins with `beginning`. The choice is by content: names lie.
fn format_of(beginning: &[u8]) -> Result<&'static dyn ShardFormat> {
    let mut reasons = Vec::new();
    for &format in FORMATS {
        match format.recognise(beginning) {
            Ok(()) => return Ok(format),
            Err(reason) => reasons.push((format.name(), reason)),
        }
    }
    Err(refusal(reasons))
}

/// Why no format fits: the reason where there is one format, and else each with its name.
fn refusal(reasons: Vec<(&str, Error)>) -> Error {
    match <[_; 1]>::try_from(reasons) {
        Ok([(_, reason)]) => reason,
        Err(reasons) => {
            let told: Vec<String> =
                reasons.iter().map(|(name, reason)| format!("{name}: {reason:#}")).collect();
            anyhow!("no known format of shards ({})", told.join("; "))
        }
    }
}
