//! What a tar file holds, from its headers alone, for files that nobody vouches for.
//!
//! Sizes are checked against the file before anything is skipped or read, extended headers have a
//! limit, and every step goes forward: damage is an error, never a long wait or much memory. Names
//! and sizes come from the plain header or from what GNU's and pax's extended headers put in its
//! place (POSIX.1-2017, `pax`; GNU tar's manual, "Basic Tar Format" and "Storing Sparse Files").

use std::io::{BufReader, Read, Seek};

use anyhow::{Context, Result, bail, ensure};
use tar::{EntryType, GnuExtSparseHeader, Header};

use super::content;

/// Tar files are made of blocks of this many bytes.
const BLOCK: u64 = 512;

/// Writers fill the last record up with zeros; this is its usual size.
const RECORD: u64 = 20 * BLOCK;

/// Bytes of an extended header that are believed: names and attributes need a few thousand.
const MOST_EXTENSION: u64 = 1 << 20;

/// A member of a tar file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its name, where what is not printable text is written as escapes, such as `\xff`.
    pub name: String,
    pub content: Content,
    /// Where its bytes begin in the file.
    pub start: u64,
    /// How many bytes it has there; they lie in the file.
    pub size: u64,
}

/// How a member's content is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// As its bytes.
    Plain,
    /// With its holes left out.
    Sparse,
    /// As another member's or file's name.
    Link,
    /// No file: a folder, a device, a volume's label.
    None,
}

/// What comes after the last member.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Ending {
    #[default]
    Marked,
    /// The file ends without the block of zeros that marks the end.
    Unmarked,
    /// Something follows the mark that programs do not read, from this byte on.
    Followed(u64),
}

/// Reads the members of a tar file in their order.
pub(super) struct TarMembers<R> {
    file: BufReader<R>,
    /// Where `file` stands.
    position: u64,
    length: u64,
    /// Where the next header begins.
    next: u64,
}

/// What extended headers say of the member that follows them.
#[derive(Default)]
struct Extension {
    long_name: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    sparse_name: Option<Vec<u8>>,
    size: Option<u64>,
    is_sparse: bool,
    is_there: bool,
}

impl<R: Read + Seek> TarMembers<R> {
    /// Reads `file` of `length` bytes, which stands at its beginning.
    pub(super) fn new(file: R, length: u64) -> Self {
        // Skips stay within the buffer where they can: most `.cls` members lie there whole.
        Self { file: BufReader::with_capacity(4096, file), position: 0, length, next: 0 }
    }

    /// The next member, or nothing after the last.
    ///
    /// # Errors
    /// The file is no tar file, damaged or cut off within a member.
    pub(super) fn next(&mut self) -> Result<Option<Member>> {
        let mut extension = Extension::default();
        loop {
            let at = self.next;
            let Some(header) = self.header()? else {
                ensure!(!extension.is_there, "damaged tar: no member follows the header of one");
                return Ok(None);
            };
            let wrong = || format!("damaged tar at byte {at} of {}", self.length);
            let size = size_field(&header).with_context(wrong)?;
            match header.entry_type() {
                EntryType::GNULongName => {
                    let name = self.extended_header(size)?;
                    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
                    extension.long_name = Some(name[..end].to_vec());
                }
                EntryType::XHeader => {
                    let records = self.extended_header(size)?;
                    extension.add_records(&records).with_context(|| {
                        format!("damaged tar: malformed extended header at byte {at}")
                    })?;
                }
                EntryType::GNULongLink | EntryType::XGlobalHeader => {
                    self.skip(size, "an extended header")?;
                    continue;
                }
                _ => return self.member(&header, size, extension).map(Some),
            }
            extension.is_there = true;
        }
    }

    /// The first bytes of a member, at most `most`.
    pub(super) fn beginning(&mut self, member: &Member, most: u64) -> Result<Vec<u8>> {
        self.read(member.start, member.size.min(most) as usize)
    }

    /// A few bytes from a member's middle.
    pub(super) fn middle(&mut self, member: &Member) -> Result<Vec<u8>> {
        let (place, count) = content::middle(member.size);
        self.read(member.start + place, count as usize)
    }

    /// What follows the last member; to be asked after it.
    pub(super) fn ending(&mut self) -> Result<Ending> {
        if self.next == self.length {
            return Ok(Ending::Unmarked);
        }
        // The mark has been read already, and a source need not be able to go back.
        let behind = self.next + BLOCK;
        let rest = self.read(behind, (self.length - behind).min(RECORD) as usize)?;
        let content = rest.iter().position(|&byte| byte != 0);
        Ok(content
            .map_or(Ending::Marked, |at| Ending::Followed(behind + at as u64 / BLOCK * BLOCK)))
    }

    /// The header at `self.next`, which moves on; nothing at the end.
    fn header(&mut self) -> Result<Option<Header>> {
        let (at, length) = (self.next, self.length);
        if at == length {
            return Ok(None);
        }
        ensure!(length - at >= BLOCK, "truncated tar: it ends within a header, at byte {length}");
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&self.read(at, BLOCK as usize)?);
        if header.as_bytes().iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        if !checksum_fits(&header) {
            bail!("damaged tar at byte {at} of {length}: no header has this checksum");
        }
        self.next += BLOCK;
        Ok(Some(header))
    }

    fn member(&mut self, header: &Header, size: u64, extension: Extension) -> Result<Member> {
        let kind = header.entry_type();
        let content = match kind {
            _ if extension.is_sparse => Content::Sparse,
            EntryType::Regular | EntryType::Continuous => Content::Plain,
            EntryType::GNUSparse => Content::Sparse,
            EntryType::Link | EntryType::Symlink => Content::Link,
            _ => Content::None,
        };
        if kind == EntryType::GNUSparse {
            self.skip_sparse_map(header)?;
        }
        let size = match kind {
            // Some writers give the size of the file that is linked to.
            EntryType::Link => 0,
            _ => extension.size.unwrap_or(size),
        };
        let Extension { sparse_name, path, long_name, .. } = extension;
        let name = sparse_name.or(path).or(long_name);
        let name = name.map_or_else(|| readable(&header.path_bytes()), |name| readable(&name));
        let start = self.next;
        self.skip(size, &format!("member `{name}`"))?;
        Ok(Member { name, content, start, size })
    }

    /// Skips the blocks of a sparse file's map that do not fit into its header.
    fn skip_sparse_map(&mut self, header: &Header) -> Result<()> {
        let mut more = header.as_gnu().is_some_and(|header| header.is_extended());
        while more {
            let at = self.next;
            self.skip(BLOCK, "a sparse file's map")?;
            let mut map = GnuExtSparseHeader::new();
            map.as_mut_bytes().copy_from_slice(&self.read(at, BLOCK as usize)?);
            more = map.is_extended();
        }
        Ok(())
    }

    fn extended_header(&mut self, size: u64) -> Result<Vec<u8>> {
        ensure!(
            size <= MOST_EXTENSION,
            "damaged tar: an extended header of {size} bytes at byte {}",
            self.next
        );
        let at = self.next;
        self.skip(size, "an extended header")?;
        self.read(at, size as usize)
    }

    /// Moves on behind `size` bytes of content and what fills up their last block.
    fn skip(&mut self, size: u64, what: &str) -> Result<()> {
        let end = self.next.saturating_add(size).checked_next_multiple_of(BLOCK);
        let end = end.unwrap_or(u64::MAX);
        ensure!(
            end <= self.length,
            "truncated tar: {what} ends at byte {end}, the file already at {}",
            self.length
        );
        self.next = end;
        Ok(())
    }

    fn read(&mut self, at: u64, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        let distance = i64::try_from(i128::from(at) - i128::from(self.position))?;
        let read =
            self.file.seek_relative(distance).and_then(|()| self.file.read_exact(&mut bytes));
        read.with_context(|| format!("truncated tar: {count} bytes at byte {at} cannot be read"))?;
        self.position = at + count as u64;
        Ok(bytes)
    }
}

impl Extension {
    /// Takes what matters from records `LENGTH KEY=VALUE\n`, whose length counts all of it.
    fn add_records(&mut self, mut records: &[u8]) -> Result<()> {
        while !matches!(records, [] | [0, ..]) {
            let space = records.iter().position(|&byte| byte == b' ').context("no length")?;
            let length: usize = std::str::from_utf8(&records[..space])?.parse()?;
            let record = records.get(space + 1..length).context("a length that is not right")?;
            let (b'\n', record) = record.split_last().context("an empty record")? else {
                bail!("a record without its end");
            };
            let equals = record.iter().position(|&byte| byte == b'=').context("no value")?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                _ if value.is_empty() => {}
                b"path" => self.path = Some(value.to_vec()),
                b"size" => self.size = Some(std::str::from_utf8(value)?.parse()?),
                b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
                _ => {}
            }
            self.is_sparse |= key.starts_with(b"GNU.sparse.");
            records = &records[length..];
        }
        Ok(())
    }
}

/// Whether a file that begins with `beginning` can be a tar file. One that is too short to tell can.
///
/// # Errors
/// It cannot, and what it seems to be.
pub(super) fn begins_tar(beginning: &[u8]) -> Result<()> {
    let mut header = Header::new_old();
    let length = header.as_bytes().len();
    let Some(block) = beginning.get(..length).filter(|block| block.iter().any(|&b| b != 0)) else {
        // Pointers and error pages are shorter than a header.
        let kind = other_kind(beginning);
        ensure!(kind.starts_with(NO_TAR), kind);
        return Ok(());
    };
    header.as_mut_bytes().copy_from_slice(block);
    match block {
        _ if checksum_fits(&header) => Ok(()),
        _ => bail!(other_kind(block)),
    }
}

/// What is said where nothing else can be told.
const NO_TAR: &str = "no tar file: it does not begin with the header of a member";

/// What a file that is no tar file seems to be by its first bytes, and the way out.
fn other_kind(beginning: &[u8]) -> &'static str {
    const KINDS: [(&[u8], &str); 11] = [
        (b"\x1f\x8b", "compressed with gzip; expected a plain tar: unpack it (gzip -d)"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd; expected a plain tar: unpack it (zstd -d)"),
        (b"BZh", "compressed with bzip2; expected a plain tar: unpack it (bzip2 -d)"),
        (b"\xfd7zXZ\0", "compressed with xz; expected a plain tar: unpack it (xz -d)"),
        (b"\x04\x22\x4d\x18", "compressed with lz4; expected a plain tar: unpack it (lz4 -d)"),
        (b"PK\x03\x04", "a zip file; expected a tar: unpack it and pack a folder"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z file; expected a tar: unpack it and pack a folder"),
        (
            b"version https://git-lfs",
            "a Git LFS pointer, not the shard: fetch it with `git lfs pull`",
        ),
        (b"PAR1", "a Parquet file; expected a tar of images"),
        (b"\x89HDF", "an HDF5 file; expected a tar of images"),
        (b"\x89PNG", "a PNG image; expected a tar of images"),
    ];
    if let Some((_, kind)) = KINDS.iter().find(|(bytes, _)| beginning.starts_with(bytes)) {
        return kind;
    }
    let text = String::from_utf8_lossy(beginning).trim_start().to_ascii_lowercase();
    match text {
        _ if ["<!doctype", "<html", "<?xml", "<head"].iter().any(|tag| text.starts_with(tag)) => {
            "a web page, not a shard: was it downloaded without signing in?"
        }
        _ if beginning.starts_with(b"\xff\xd8\xff") => "a JPEG image; expected a tar of images",
        _ if text.starts_with(['{', '[']) => "a text of JSON, not a shard",
        _ => NO_TAR,
    }
}

/// Whether the header has its checksum. Some old writers summed signed bytes.
fn checksum_fits(header: &Header) -> bool {
    let bytes = header.as_bytes();
    let others = || bytes[..148].iter().chain(&[b' '; 8]).chain(&bytes[156..]);
    let unsigned: i64 = others().map(|&byte| i64::from(byte)).sum();
    let signed: i64 = others().map(|&byte| i64::from(byte as i8)).sum();
    header.cksum().is_ok_and(|sum| [unsigned, signed].contains(&i64::from(sum)))
}

fn size_field(header: &Header) -> Result<u64> {
    let field = &header.as_old().size;
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(0);
    }
    // A number in base 256 has as many bytes as the field; all that may be set lie in the last 8.
    let fits = field[0] < 0x80 || (field[0] == 0x80 && field[1..4] == [0; 3]);
    ensure!(fits, "a size that is negative or too large");
    header.entry_size().context("a size that is no number")
}

fn readable(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                _ if character.is_control() => text.extend(character.escape_default()),
                _ => text.push(character),
            }
        }
        chunk.invalid().iter().for_each(|byte| text += &format!("\\x{byte:02x}"));
    }
    text
}
