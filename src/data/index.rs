//! What lies where in a shard: one pass over the headers of a tar file.

use std::fmt::Display;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use anyhow::{Context, Result, bail, ensure};
use tar::{Entry, EntryType};
use webdataset::core::base_plus_ext;

/// Tar files are made of blocks of this many bytes.
const BLOCK: u64 = 512;

/// Stands for "no label" in [`ShardIndex::labels`].
pub const NO_LABEL: u32 = u32::MAX;

/// The pictures of a shard, one row each, in the order of the file.
///
/// A sample is a run of members with one key, which is WebDataset's: the path up to the first dot
/// of its last part. Its picture is the first member whose extension is a picture's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardIndex {
    /// Where each picture's bytes begin in the shard.
    pub offsets: Vec<u64>,
    /// How many bytes each picture has; `u32::MAX` where that does not fit.
    pub sizes: Vec<u32>,
    /// Class of each sample, from its `.cls` member, or [`NO_LABEL`].
    pub labels: Vec<u32>,
    pub(super) names: Vec<u8>,
    pub(super) name_ends: Vec<u32>,
}

/// Whether `extension` is a picture's, in any case.
pub fn is_picture_extension(extension: &str) -> bool {
    ["jpg", "jpeg", "png", "webp"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

impl ShardIndex {
    /// Number of pictures.
    pub fn rows(&self) -> usize {
        self.offsets.len()
    }

    /// Name of the picture's member in the tar file.
    pub fn name(&self, row: usize) -> &str {
        let start = row.checked_sub(1).map_or(0, |before| self.name_ends[before]) as usize;
        let bytes = &self.names[start..self.name_ends[row] as usize];
        std::str::from_utf8(bytes).unwrap_or("(unreadable name)")
    }

    /// The row whose picture begins at `offset`.
    pub fn row_at(&self, offset: u64) -> Option<usize> {
        self.offsets.binary_search(&offset).ok()
    }

    /// How many samples have a label.
    pub fn labelled(&self) -> usize {
        self.labels.iter().filter(|&&label| label != NO_LABEL).count()
    }

    /// Bytes of all pictures.
    pub fn bytes(&self) -> u64 {
        self.sizes.iter().map(|&size| u64::from(size)).sum()
    }

    /// Reads the headers of the tar file `shard` of `length` bytes and skips its members, `.cls`
    /// texts apart. `name` is the shard's in messages.
    ///
    /// # Errors
    /// It is no tar file, ends too early, or holds no picture.
    pub fn scan(shard: impl Read + Seek, length: u64, name: &dyn Display) -> Result<Self> {
        let grouping = scan(shard, length).and_then(Grouping::finish);
        let grouping = grouping.with_context(|| format!("{name}: cannot be indexed"))?;
        grouping.warn(name);
        Ok(grouping.index)
    }
}

fn scan(shard: impl Read + Seek, length: u64) -> Result<Grouping> {
    let mut archive = tar::Archive::new(HeaderReader::new(shard));
    let mut grouping = Grouping::default();
    let mut end = 0;
    for entry in archive.entries_with_seek()? {
        let mut entry =
            entry.with_context(|| format!("damaged or truncated tar at byte {end} of {length}"))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let stored = match entry.header().entry_type() {
            EntryType::GNUSparse => entry.header().entry_size()?,
            _ => entry.size(),
        };
        end = entry.raw_file_position().saturating_add(stored).div_ceil(BLOCK) * BLOCK;
        ensure!(
            end <= length,
            "truncated tar: member `{name}` ends at byte {end}, the file already at {length}"
        );
        if matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous) {
            grouping.add(&name, &mut entry)?;
        }
    }
    ensure!(
        length >= end + BLOCK,
        "truncated tar: the mark of its end is missing after {} members, at byte {end}",
        grouping.members
    );
    Ok(grouping)
}

/// A reader that skips within its buffer where it can: most `.cls` members lie there whole.
struct HeaderReader<R> {
    file: BufReader<R>,
    position: u64,
}

impl<R: Read> HeaderReader<R> {
    fn new(file: R) -> Self {
        Self { file: BufReader::with_capacity(4096, file), position: 0 }
    }
}

impl<R: Read> Read for HeaderReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl<R: Seek + Read> Seek for HeaderReader<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        if let SeekFrom::Current(distance) = to {
            self.file.seek_relative(distance)?;
            self.position = self.position.saturating_add_signed(distance);
        } else {
            self.position = self.file.seek(to)?;
        }
        Ok(self.position)
    }
}

/// Gathers members into samples.
#[derive(Default)]
struct Grouping {
    index: ShardIndex,
    key: String,
    /// Name, offset and size of the current sample's picture.
    picture: Option<(String, u64, u32)>,
    label: Option<u32>,
    members: usize,
    second_pictures: usize,
    bad_labels: usize,
    dotted: Option<String>,
}

impl Grouping {
    fn add(&mut self, name: &str, entry: &mut Entry<'_, impl Read>) -> Result<()> {
        self.members += 1;
        let Some((key, extension)) = base_plus_ext(name) else { return Ok(()) };
        if key != self.key {
            self.close();
            self.key = key.to_string();
        }
        if is_picture_extension(extension) {
            let size = u32::try_from(entry.size()).unwrap_or(u32::MAX);
            if self.picture.is_some() {
                self.second_pictures += 1;
            } else {
                self.picture = Some((name.to_string(), entry.raw_file_position(), size));
            }
        } else if extension == "cls" {
            let mut text = String::new();
            let read = entry.take(64).read_to_string(&mut text);
            self.label =
                read.ok().and_then(|_| text.trim().parse().ok()).filter(|&label| label != NO_LABEL);
            self.bad_labels += usize::from(self.label.is_none());
        } else if extension.rsplit_once('.').is_some_and(|(_, last)| is_picture_extension(last)) {
            self.dotted.get_or_insert_with(|| name.to_string());
        }
        Ok(())
    }

    fn close(&mut self) {
        let label = self.label.take();
        if let Some((name, offset, size)) = self.picture.take() {
            self.index.offsets.push(offset);
            self.index.sizes.push(size);
            self.index.labels.push(label.unwrap_or(NO_LABEL));
            self.index.names.extend(name.as_bytes());
            self.index.name_ends.push(self.index.names.len() as u32);
        }
    }

    fn finish(mut self) -> Result<Self> {
        self.close();
        if self.index.rows() == 0 {
            let hint = self.dotted.map_or(String::new(), |name| {
                format!("; a key ends at the first dot, so `{name}` does not count as a picture")
            });
            bail!("no picture (.jpg, .jpeg, .png, .webp) among its {} members{hint}", self.members);
        }
        ensure!(
            self.index.names.len() < u32::MAX as usize,
            "its member names take over 4 GiB; split the shard"
        );
        Ok(self)
    }

    fn warn(&self, shard: &dyn Display) {
        if self.second_pictures > 0 {
            tracing::warn!(
                "{shard}: {} pictures share their key with one before them and are left out",
                self.second_pictures
            );
        }
        if self.bad_labels > 0 {
            tracing::warn!("{shard}: {} .cls members are not a class number", self.bad_labels);
        }
    }
}
