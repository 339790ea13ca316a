//! Shard indexes kept on disk, so that a data set is scanned once.
//!
//! An index file is a head and a body of little-endian numbers. The head has a magic word with
//! the format's version, the stamp of the shard (its size and version), the number of rows, and
//! the BLAKE3 checksums of some images' bytes, of the body and of the head itself; so what a data set holds is known from
//! the heads alone. An index is used only while the shard has the stamp it was made for; anything
//! else about it that is not as expected means that it is made again.
//!
//! Where fields beside image and label are asked for, the index is a file of its own, named after
//! them, whose body goes on with their names and places. A data set without such fields reads and
//! writes what it always did. What is odd about a shard follows the body, where anything is, and is told
//! whenever the shard is opened.

use std::collections::{HashMap, HashSet};
use std::fs::{File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;

use crate::format::content::middle;
use crate::format::{FieldColumn, ShardIndex, index_shard};
use crate::labels::{NO_LABEL, Wanted};
use crate::source::{Bundle, INDEX_SUFFIX, ShardAddress, Sources, Stamp};
use distill_base::durable::user_cache;

/// Of an index of images and labels alone, and of one with fields beside them.
const MAGIC: &[u8; 8] = b"DSTLIX06";
const MAGIC_WITH_FIELDS: &[u8; 8] = b"DSTLIX07";
/// At the end of a file with notes: before it their checksum and number of bytes, before these the notes.
const NOTES: &[u8; 8] = b"DSTLNOTE";
const CHECKSUM: usize = 32;
/// Magic word, four numbers, the checksum of some images' bytes, the body's checksum, the checksum of all these.
const HEAD: usize = 8 + 4 * 8 + 3 * CHECKSUM;

/// Most images of a folder that are looked into at a start.
const MOST_PEEKED: usize = 64;

/// A callback with the number of shards done and of all; called from several threads.
pub type ShardProgress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// Where the indexes of shards are kept.
pub struct IndexCache {
    sources: Arc<Sources>,
    folder: Option<PathBuf>,
    /// What is indexed beside images.
    wanted: Wanted,
    /// Indexes that no folder can keep.
    kept_nowhere: Mutex<HashMap<ShardAddress, (Head, Arc<ShardIndex>)>>,
    /// Shards whose notes were told.
    told: Mutex<HashSet<ShardAddress>>,
    /// Whether notes are told at all.
    is_quiet: bool,
}

/// The head of an index: what is known of a shard without reading its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The state of the shard that this is about.
    pub stamp: Stamp,
    /// Number of images.
    pub rows: u64,
    /// Checksum of the images' places, labels and names.
    pub digest: [u8; CHECKSUM],
    /// [`ShardIndex::content`].
    pub content: [u8; CHECKSUM],
    names: u64,
}

/// An index, and whether it was found or made now.
#[derive(Debug)]
pub struct CachedIndex {
    pub head: Head,
    pub index: Arc<ShardIndex>,
    pub reused: bool,
}

impl IndexCache {
    /// Keeps indexes of shards from `sources` in `folder`; with none, beside the shards, or in the
    /// user's cache folder where that place cannot be written.
    pub fn new(sources: Arc<Sources>, folder: Option<&Path>) -> Self {
        let folder = folder.map(Path::to_path_buf);
        let (wanted, kept_nowhere, told) = Default::default();
        Self { sources, folder, wanted, kept_nowhere, told, is_quiet: false }
    }

    /// Says nothing of what is odd about shards: who opens them next does.
    #[must_use]
    pub fn quiet(self) -> Self {
        Self { is_quiet: true, ..self }
    }

    /// Indexes this beside images.
    #[must_use]
    pub fn with(self, wanted: Wanted) -> Self {
        Self { wanted, ..self }
    }

    /// Does `visit` for all `shards`, in parallel, and gives the results in their order. `progress`
    /// is told how many are done.
    pub fn visit<T: Send>(
        shards: &[ShardAddress],
        progress: ShardProgress<'_>,
        visit: impl Fn(&ShardAddress) -> Result<T> + Sync,
    ) -> Vec<Result<T>> {
        let done = AtomicUsize::new(0);
        shards
            .par_iter()
            .map(|shard| {
                let result = visit(shard);
                progress(done.fetch_add(1, Ordering::Relaxed) + 1, shards.len());
                result
            })
            .collect()
    }

    /// What `shard` holds, from the head of its index, which is made where it is missing.
    ///
    /// # Errors
    /// [`index_shard`]'s.
    pub fn head(&self, shard: &ShardAddress) -> Result<Head> {
        let stamp = self.sources.stamp(shard)?;
        let found = self.places(shard).iter().find_map(|place| {
            let mut head = [0; HEAD];
            let mut file = File::open(place).ok()?;
            file.read_exact(&mut head).ok()?;
            let head = Head::decode(&head, self.magic()).filter(|head| head.stamp == stamp)?;
            self.tell(shard, &notes_in(&mut file).ok()?);
            Some(head)
        });
        found.map_or_else(|| Ok(self.open(shard)?.head), Ok)
    }

    /// The index of `shard`, found or made.
    ///
    /// # Errors
    /// [`index_shard`]'s. Failing to keep the index is only worth a warning.
    pub fn open(&self, shard: &ShardAddress) -> Result<CachedIndex> {
        let stamp = self.sources.stamp(shard)?;
        if let Some((head, index)) = self.found(shard, stamp) {
            self.tell(shard, &index.notes);
            return Ok(CachedIndex { head, index, reused: true });
        }
        if let ShardAddress::Bundle(bundle) = shard {
            let index = Arc::new(index_of(bundle, self.wanted.fields.len())?);
            let (head, _) = encode(&index, &self.wanted.fields, stamp);
            self.keep_in_memory(shard, head, index.clone());
            return Ok(CachedIndex { head, index, reused: false });
        }
        let mut reader = self.sources.open(shard)?;
        let index = Arc::new(index_shard(&mut reader, stamp.size, &self.wanted, shard)?);
        self.tell(shard, &index.notes);
        let (head, file) = encode(&index, &self.wanted.fields, stamp);
        let mut errors = Vec::new();
        let places = self.places(shard);
        if !places.iter().any(|place| write(place, &file).map_err(|e| errors.push(e)).is_ok()) {
            tracing::warn!(
                "{shard}: its index cannot be kept and will be made again in the next run ({}); \
                 set data.index_dir to a folder that can be written",
                errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            );
            self.keep_in_memory(shard, head, index.clone());
        }
        Ok(CachedIndex { head, index, reused: false })
    }

    /// Says what is odd about a shard, once in a process.
    fn tell(&self, shard: &ShardAddress, notes: &[String]) {
        if notes.is_empty() || self.is_quiet {
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(shard.clone()) {
            notes.iter().for_each(|note| tracing::warn!("{shard}: {note}"));
        }
    }

    fn keep_in_memory(&self, shard: &ShardAddress, head: Head, index: Arc<ShardIndex>) {
        let mut kept = self.kept_nowhere.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(shard.clone(), (head, index));
    }

    fn found(&self, shard: &ShardAddress, stamp: Stamp) -> Option<(Head, Arc<ShardIndex>)> {
        let kept = self.kept_nowhere.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.get(shard).filter(|(head, _)| head.stamp == stamp) {
            return Some(kept.clone());
        }
        drop(kept);
        let read =
            |place: &PathBuf| decode(&std::fs::read(place).ok()?, &self.wanted.fields, stamp);
        let (head, index) = self.places(shard).iter().find_map(read)?;
        Some((head, Arc::new(index)))
    }

    fn magic(&self) -> &'static [u8; 8] {
        if self.wanted.fields.is_empty() { MAGIC } else { MAGIC_WITH_FIELDS }
    }

    /// What the name of an index ends with: also what it has beside images and labels.
    fn suffix(&self) -> String {
        let mark = self.wanted.label.mark();
        let others = self.wanted.fields.iter().chain(&mark);
        others.map(|name| format!(".{name}")).collect::<String>() + INDEX_SUFFIX
    }

    /// Where the index of `shard` may lie, best place first.
    fn places(&self, shard: &ShardAddress) -> Vec<PathBuf> {
        let name = shard.file_name();
        let unique = match shard {
            ShardAddress::File(path) => {
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                blake3::hash(path.as_os_str().as_encoded_bytes())
            }
            ShardAddress::Url(url) => blake3::hash(url.as_bytes()),
            ShardAddress::Bundle(_) => return Vec::new(),
        };
        let suffix = self.suffix();
        let apart = format!("{name}-{}{suffix}", &unique.to_hex()[..16]);
        if let Some(folder) = &self.folder {
            return vec![folder.join(apart)];
        }
        let beside = shard.with_suffix(&suffix);
        let beside = beside.as_ref().and_then(ShardAddress::as_file).map(Path::to_path_buf);
        let apart = user_cache().map(|cache| cache.join("distill/index").join(apart));
        beside.into_iter().chain(apart).collect()
    }
}

/// The rows of a bundle, whose samples have so many `fields` beside their image.
fn index_of(bundle: &Bundle, fields: usize) -> Result<ShardIndex> {
    let mut index =
        ShardIndex { fields: vec![FieldColumn::default(); fields], ..ShardIndex::default() };
    let size = |range: &Range<u64>| u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
    let mut content = blake3::Hasher::new();
    // Each is a file that has to be opened.
    let one_of = bundle.samples().len().div_ceil(MOST_PEEKED);
    for (number, sample) in bundle.samples().iter().enumerate() {
        if number.is_multiple_of(one_of) {
            let (place, count) = middle(sample.image.end - sample.image.start);
            let bytes = bundle.peek(sample.image.clone(), place, count);
            content.update(&bytes.unwrap_or_default());
        }
        ensure!(sample.targets.len() == fields, "{}: not {fields} targets each", bundle.name());
        index.offsets.push(sample.image.start);
        index.sizes.push(size(&sample.image));
        index.labels.push(sample.label.unwrap_or(NO_LABEL));
        for (column, range) in index.fields.iter_mut().zip(&sample.targets) {
            column.push(Some((range.start, size(range))));
        }
        index.names.extend(bundle.file_of(&sample.image).as_os_str().as_encoded_bytes());
        index.name_ends.push(u32::try_from(index.names.len())?);
    }
    index.content = *content.finalize().as_bytes();
    Ok(index)
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

impl Head {
    fn encode(&self, magic: &[u8; 8]) -> Vec<u8> {
        let Stamp { size, version } = self.stamp;
        let mut head = magic.to_vec();
        for number in [size, version, self.rows, self.names] {
            head.extend(number.to_le_bytes());
        }
        head.extend(self.content);
        head.extend(self.digest);
        head.extend(blake3::hash(&head).as_bytes());
        head
    }

    fn decode(head: &[u8; HEAD], magic: &[u8; 8]) -> Option<Self> {
        let (head, checksum) = head.split_last_chunk::<CHECKSUM>()?;
        if blake3::hash(head).as_bytes() != checksum {
            return None;
        }
        let (rest, digest) = head.strip_prefix(magic)?.split_last_chunk::<CHECKSUM>()?;
        let (numbers, content) = rest.split_last_chunk::<CHECKSUM>()?;
        let (numbers, _) = numbers.as_chunks();
        let [size, version, rows, names] =
            <[[u8; 8]; 4]>::try_from(numbers).ok()?.map(u64::from_le_bytes);
        let (digest, content, stamp) = (*digest, *content, Stamp { size, version });
        Some(Self { stamp, rows, digest, content, names })
    }
}

fn encode(index: &ShardIndex, fields: &[String], stamp: Stamp) -> (Head, Vec<u8>) {
    let mut body = Vec::with_capacity(index.rows() * 20 + index.names.len());
    body.extend(index.offsets.iter().flat_map(|offset| offset.to_le_bytes()));
    for column in [&index.sizes, &index.labels, &index.name_ends] {
        body.extend(column.iter().flat_map(|number| number.to_le_bytes()));
    }
    body.extend(&index.names);
    for (field, column) in fields.iter().zip(&index.fields) {
        body.extend((field.len() as u32).to_le_bytes());
        body.extend(field.as_bytes());
        body.extend(column.offsets.iter().flat_map(|offset| offset.to_le_bytes()));
        body.extend(column.sizes.iter().flat_map(|size| size.to_le_bytes()));
    }
    let digest = *blake3::hash(&body).as_bytes();
    let (rows, names) = (index.rows() as u64, index.names.len() as u64);
    let head = Head { stamp, rows, digest, content: index.content, names };
    let magic = if fields.is_empty() { MAGIC } else { MAGIC_WITH_FIELDS };
    (head, [head.encode(magic), body, encode_notes(&index.notes)].concat())
}

fn encode_notes(notes: &[String]) -> Vec<u8> {
    if notes.is_empty() {
        return Vec::new();
    }
    let text = notes.join("\n").into_bytes();
    let checksum = *blake3::hash(&text).as_bytes();
    let length = (text.len() as u64).to_le_bytes();
    [&text[..], &checksum, &length, NOTES].concat()
}

/// Bytes of what stands behind the text of notes.
const NOTES_TAIL: usize = CHECKSUM + 8 + NOTES.len();

/// The rest of a file before its notes, and these; none where it is damaged.
fn split_notes(file: &[u8]) -> Option<(&[u8], Vec<String>)> {
    if !file.ends_with(NOTES) {
        return Some((file, Vec::new()));
    }
    let (rest, tail) = file.split_at_checked(file.len().checked_sub(NOTES_TAIL)?)?;
    let (checksum, tail) = tail.split_first_chunk::<CHECKSUM>()?;
    let length = u64::from_le_bytes(*tail.first_chunk()?);
    let (rest, text) = rest.split_at_checked(rest.len().checked_sub(length.try_into().ok()?)?)?;
    if blake3::hash(text).as_bytes() != checksum {
        return None;
    }
    Some((rest, std::str::from_utf8(text).ok()?.lines().map(str::to_string).collect()))
}

/// The notes at the end of an index.
fn notes_in(file: &mut File) -> Result<Vec<String>> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut tail = [0; NOTES_TAIL];
    file.seek(SeekFrom::Start(length.saturating_sub(NOTES_TAIL as u64)))?;
    file.read_exact(&mut tail)?;
    if !tail.ends_with(NOTES) {
        return Ok(Vec::new());
    }
    let mut whole = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut whole)?;
    split_notes(&whole).map(|(_, notes)| notes).context("its notes are damaged")
}

/// The index in `file`, or nothing if the file is not whole, has other fields or is not about the
/// stamped state.
fn decode(file: &[u8], fields: &[String], stamp: Stamp) -> Option<(Head, ShardIndex)> {
    let magic = if fields.is_empty() { MAGIC } else { MAGIC_WITH_FIELDS };
    let (file, notes) = split_notes(file)?;
    let (head, body) = file.split_first_chunk::<HEAD>()?;
    let head = Head::decode(head, magic).filter(|head| head.stamp == stamp)?;
    if *blake3::hash(body).as_bytes() != head.digest {
        return None;
    }
    let rows = head.rows as usize;
    let mut rest = Numbers(body);
    let offsets = rest.u64s(rows)?;
    let (sizes, labels, name_ends) = (rest.u32s(rows)?, rest.u32s(rows)?, rest.u32s(rows)?);
    let names = rest.bytes(head.names as usize)?.to_vec();
    let column = |field: &String| {
        let name_length = rest.u32s(1)?[0] as usize;
        let known = rest.bytes(name_length)? == field.as_bytes();
        known.then_some(FieldColumn { offsets: rest.u64s(rows)?, sizes: rest.u32s(rows)? })
    };
    let fields = fields.iter().map(column).collect::<Option<_>>()?;
    let content = head.content;
    let index = ShardIndex { offsets, sizes, labels, fields, notes, content, names, name_ends };
    rest.0.is_empty().then_some((head, index))
}

/// Little-endian numbers, taken from the front.
struct Numbers<'a>(&'a [u8]);

impl<'a> Numbers<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        self.0.split_off(..count)
    }

    fn u64s(&mut self, count: usize) -> Option<Vec<u64>> {
        let bytes = self.bytes(count.checked_mul(8)?)?;
        Some(bytes.as_chunks().0.iter().map(|&b| u64::from_le_bytes(b)).collect())
    }

    fn u32s(&mut self, count: usize) -> Option<Vec<u32>> {
        let bytes = self.bytes(count.checked_mul(4)?)?;
        Some(bytes.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(fields: Vec<FieldColumn>) -> ShardIndex {
        ShardIndex {
            offsets: vec![512, 4096],
            sizes: vec![10, 20],
            labels: vec![3, NO_LABEL],
            fields,
            notes: Vec::new(),
            content: [9; 32],
            names: b"a.jpgbb.png".to_vec(),
            name_ends: vec![5, 11],
        }
    }

    fn column(offsets: [u64; 2], sizes: [u32; 2]) -> FieldColumn {
        FieldColumn { offsets: offsets.to_vec(), sizes: sizes.to_vec() }
    }

    #[test]
    fn what_is_kept_comes_back_and_damage_shows() {
        let stamp = Stamp { size: 1 << 40, version: 5 };
        let masks = vec![column([1024, 0], [30, 0]), column([2048, 8192], [40, 50])];
        for (fields, columns) in
            [(vec![], vec![]), (vec!["mask.png".to_string(), "depth.png".into()], masks)]
        {
            let index = index(columns);
            let magic = if fields.is_empty() { MAGIC } else { MAGIC_WITH_FIELDS };
            let (head, file) = encode(&index, &fields, stamp);
            assert_eq!(decode(&file, &fields, stamp), Some((head, index.clone())));
            assert_eq!(Head::decode(file.first_chunk().unwrap(), magic), Some(head));
            assert_eq!((head.rows, index.name(0), index.name(1)), (2, "a.jpg", "bb.png"));
            assert_eq!(decode(&file, &fields, Stamp { version: 6, ..stamp }), None, "other state");
            for cut in 0..file.len() {
                assert_eq!(decode(&file[..cut], &fields, stamp), None, "cut at {cut}");
            }
            for place in 0..file.len() {
                let mut damaged = file.clone();
                damaged[place] ^= 4;
                assert_eq!(decode(&damaged, &fields, stamp), None, "flipped at {place}");
                let head = Head::decode(damaged.first_chunk().unwrap(), magic);
                assert_eq!(head.is_none(), place < HEAD, "flipped at {place}");
            }
            let others = [vec![], vec!["mask.png".to_string()], vec!["a".into(), "b".into()]];
            for other in others.iter().filter(|other| **other != fields) {
                assert_eq!(decode(&file, other, stamp), None, "{other:?} is not {fields:?}");
            }
        }
    }

    /// Notes come back too, and damage to them shows; a reader of the head alone finds them.
    #[test]
    fn notes_are_kept_beside() {
        let stamp = Stamp { size: 4608, version: 5 };
        let noted = ShardIndex { notes: vec!["one".into(), "two".into()], ..index(vec![]) };
        let (head, file) = encode(&noted, &[], stamp);
        assert_eq!(decode(&file, &[], stamp), Some((head, noted.clone())));
        assert_eq!(head.digest, encode(&index(vec![]), &[], stamp).0.digest, "no other data set");
        for place in 0..file.len() {
            let mut damaged = file.clone();
            damaged[place] ^= 4;
            assert_ne!(decode(&damaged, &[], stamp), Some((head, noted.clone())), "{place}");
        }
        let mut kept = tempfile::tempfile().unwrap();
        kept.write_all(&file).unwrap();
        assert_eq!(notes_in(&mut kept).unwrap(), noted.notes);
    }

    /// What was written before there were fields, but for the mark and the checksum of images' bytes: shards are read
    /// anew once. Of what is behind the head data sets are known when a run is resumed.
    #[test]
    fn an_index_without_fields_never_changes() {
        let (head, file) = encode(&index(vec![]), &[], Stamp { size: 4608, version: 5 });
        assert_eq!(&file[..8], b"DSTLIX06");
        let numbers = [4608_u64, 5, head.rows, head.names].map(u64::to_le_bytes).concat();
        let written = [&b"DSTLIX02"[..], &numbers, &head.digest].concat();
        let before = [&written, &blake3::hash(&written).as_bytes()[..], &file[HEAD..]].concat();
        assert_eq!(
            blake3::hash(&before).to_hex().as_str(),
            "596b3f728003a4ac699d715d7760a9e0bac11b9bbe190c0206407f4b99cabc7e"
        );
        assert_eq!(file.len(), HEAD + 2 * 20 + 11);
        assert_eq!(head.rows, 2);
    }
}
