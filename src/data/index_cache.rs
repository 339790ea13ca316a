//! Shard indexes kept on disk, so that a data set is scanned once.
//!
//! An index file is a magic word with the format's version, the BLAKE3 checksum of the rest, and
//! little-endian numbers. It is used only while the shard's size and modification time are those
//! it was made for; anything else about it that is not as expected means that it is made again.

use std::fs::{Metadata, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use rayon::prelude::*;

use super::ShardProgress;
use super::index::ShardIndex;

/// What the name of an index file ends with.
pub const INDEX_SUFFIX: &str = ".distill-index";

const MAGIC: &[u8; 8] = b"DSTLIX01";
const CHECKSUM: usize = 32;

/// Where the indexes of shards are kept.
#[derive(Debug, Clone)]
pub struct IndexCache {
    folder: Option<PathBuf>,
}

/// An index, and whether it was found or made now.
#[derive(Debug)]
pub struct CachedIndex {
    pub index: ShardIndex,
    pub reused: bool,
}

impl IndexCache {
    /// Keeps indexes in `folder`; with none, beside the shards, or in the user's cache folder
    /// where that place cannot be written.
    pub fn new(folder: Option<&Path>) -> Self {
        Self { folder: folder.map(Path::to_path_buf) }
    }

    /// The indexes of all `shards`, in their order, each found or made; in parallel. One that
    /// cannot be made does not keep the others from being made.
    pub fn open_all(
        &self,
        shards: &[PathBuf],
        progress: ShardProgress<'_>,
    ) -> Vec<Result<CachedIndex>> {
        let done = std::sync::atomic::AtomicUsize::new(0);
        shards
            .par_iter()
            .map(|shard| {
                let index = self.open(shard);
                let done = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
                progress(done, shards.len());
                index
            })
            .collect()
    }

    /// The index of `shard`, found or made.
    ///
    /// # Errors
    /// [`ShardIndex::scan`]'s. Failing to keep the index is only worth a warning.
    pub fn open(&self, shard: &Path) -> Result<CachedIndex> {
        let metadata =
            shard.metadata().with_context(|| format!("{}: cannot be read", shard.display()))?;
        let stamp = Stamp::of(&metadata);
        let places = self.places(shard);
        for place in &places {
            if let Some(index) = std::fs::read(place).ok().and_then(|file| decode(&file, stamp)) {
                return Ok(CachedIndex { index, reused: true });
            }
        }
        let index = ShardIndex::scan(shard)?;
        let file = encode(&index, stamp);
        let mut errors = Vec::new();
        if !places.iter().any(|place| write(place, &file).map_err(|e| errors.push(e)).is_ok()) {
            tracing::warn!(
                "{}: its index cannot be kept and will be made again each time ({}); set \
                 data.index_dir to a folder that can be written",
                shard.display(),
                errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            );
        }
        Ok(CachedIndex { index, reused: false })
    }

    /// Where the index of `shard` may lie, best place first.
    fn places(&self, shard: &Path) -> Vec<PathBuf> {
        let name = shard.file_name().unwrap_or_default().to_string_lossy();
        let path = shard.canonicalize().unwrap_or_else(|_| shard.to_path_buf());
        let hash = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
        let apart = format!("{name}-{}{INDEX_SUFFIX}", &hash[..16]);
        match &self.folder {
            Some(folder) => vec![folder.join(apart)],
            None => std::iter::once(shard.with_file_name(format!("{name}{INDEX_SUFFIX}")))
                .chain(user_cache().map(|cache| cache.join("distill/index").join(apart)))
                .collect(),
        }
    }
}

fn user_cache() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))
}

fn write(place: &Path, file: &[u8]) -> Result<()> {
    let folder = place.parent().unwrap_or(Path::new("."));
    let attempt = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut temporary = tempfile::Builder::new()
            .prefix(".index-")
            .permissions(Permissions::from_mode(0o666)) // less the umask, as for any file
            .tempfile_in(folder)?;
        temporary.write_all(file)?;
        temporary.persist(place)?;
        Ok(())
    };
    attempt().with_context(|| place.display().to_string())
}

/// What tells one state of a shard from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified_ns: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let modified =
            metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self { size: metadata.len(), modified_ns: modified.map_or(0, |age| age.as_nanos() as u64) }
    }
}

fn encode(index: &ShardIndex, stamp: Stamp) -> Vec<u8> {
    let mut body = Vec::with_capacity(32 + index.rows() * 20 + index.names.len());
    for number in [stamp.size, stamp.modified_ns, index.rows() as u64, index.names.len() as u64] {
        body.extend(number.to_le_bytes());
    }
    body.extend(index.offsets.iter().flat_map(|offset| offset.to_le_bytes()));
    for column in [&index.sizes, &index.labels, &index.name_ends] {
        body.extend(column.iter().flat_map(|number| number.to_le_bytes()));
    }
    body.extend(&index.names);
    [MAGIC.as_slice(), blake3::hash(&body).as_bytes(), &body].concat()
}

/// The index in `file`, or nothing if the file is not whole or not about the stamped state.
fn decode(file: &[u8], stamp: Stamp) -> Option<ShardIndex> {
    let (checksum, body) = file.strip_prefix(MAGIC)?.split_at_checked(CHECKSUM)?;
    if blake3::hash(body).as_bytes() != checksum {
        return None;
    }
    let mut rest = body;
    let mut take = |bytes: usize| -> Option<&[u8]> { rest.split_off(..bytes) };
    let mut number = || Some(u64::from_le_bytes(take(8)?.try_into().ok()?));
    if (Stamp { size: number()?, modified_ns: number()? }) != stamp {
        return None;
    }
    let (rows, names) = (number()? as usize, number()? as usize);
    let offsets = take(rows.checked_mul(8)?)?;
    let offsets = offsets.as_chunks().0.iter().map(|&b| u64::from_le_bytes(b)).collect();
    let mut column = || -> Option<Vec<u32>> {
        let bytes = take(rows.checked_mul(4)?)?;
        Some(bytes.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect())
    };
    let (sizes, labels, name_ends) = (column()?, column()?, column()?);
    let names = take(names)?.to_vec();
    rest.is_empty().then_some(ShardIndex { offsets, sizes, labels, names, name_ends })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_damage_shows() {
        let index = ShardIndex {
            offsets: vec![512, 4096],
            sizes: vec![10, 20],
            labels: vec![3, super::super::index::NO_LABEL],
            names: b"a.jpgbb.png".to_vec(),
            name_ends: vec![5, 11],
        };
        let stamp = Stamp { size: 1 << 40, modified_ns: 5 };
        let file = encode(&index, stamp);
        assert_eq!(decode(&file, stamp).as_ref(), Some(&index));
        assert_eq!((index.name(0), index.name(1)), ("a.jpg", "bb.png"));
        assert_eq!(decode(&file, Stamp { modified_ns: 6, ..stamp }), None, "another state");
        for cut in 0..file.len() {
            assert_eq!(decode(&file[..cut], stamp), None, "cut at {cut}");
        }
        for place in 0..file.len() {
            let mut damaged = file.clone();
            damaged[place] ^= 4;
            assert_eq!(decode(&damaged, stamp), None, "flipped at {place}");
        }
    }
}
