//! Pieces of objects on the local disk, shared by all processes of a machine.
//!
//! ```text
//! FOLDER/<object>/<number>        a piece, whole
//! FOLDER/<object>/<number>.part   a piece that is being written, or whose writer died
//! FOLDER/locks/<number>           held by whoever writes a piece
//! FOLDER/usage                    bytes of all pieces and parts; its lock is held to change them
//! ```
//! An object's folder is named by a hash of its URL and its [`Stamp`], so a changed object never
//! meets pieces of its former state. Locks are the system's (`flock`): they end with their holder,
//! however it ends. A part has its full length from the start, so `usage` counts what is about to
//! be written, too. It can only be too high after a crash, and is counted anew when it reaches the
//! bound.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use backon::{BlockingRetryable, ConstantBuilder};
use distill_base::file_locks;

use super::stamp::Stamp;

/// Locks that pieces share by a hash of their names: few enough to stay a small folder, so many
/// that two of the hundred pieces that a machine fetches at a time rarely have the same.
const LOCKS: u64 = 4096;

/// Use of a piece is noted if the last note is older than this.
const NOTED: Duration = Duration::from_secs(5);

/// A full cache is emptied by this part of its bound, so that not every new piece has to look
/// through all of them.
const EMPTIED_PART: u64 = 10;

/// The smallest cache: two pieces that an image lies across, and two of somebody else.
pub(super) const LEAST_PIECES: u64 = 4;

/// Wait for room while other downloads take up the whole cache, and how often.
const ROOM_DELAY: Duration = Duration::from_millis(100);
const ROOM_TRIES: usize = 600;

const PART: &str = "part";

/// A folder of pieces with a bound on their sum.
pub(super) struct Cache {
    folder: PathBuf,
    bound: u64,
    piece_bytes: u64,
}

/// One state of one object, as the cache names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ObjectKey([u8; 16]);

/// A piece of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PieceKey {
    pub(super) object: ObjectKey,
    pub(super) number: u64,
    pub(super) length: u64,
}

/// A piece or part on disk.
struct Kept {
    path: PathBuf,
    length: u64,
    used: SystemTime,
}

impl Cache {
    /// The cache in `folder`, or in the user's cache folder, bounded to `gigabytes`.
    pub(super) fn open(folder: Option<&Path>, gigabytes: f64, piece_bytes: u64) -> Result<Self> {
        let bound = (gigabytes * 1e9) as u64;
        let folder = match folder {
            Some(folder) => folder.to_path_buf(),
            None => distill_base::durable::user_cache()
                .context("neither HOME nor XDG_CACHE_HOME is set; set data.cache_dir")?
                .join("distill/shards"),
        };
        fs::create_dir_all(folder.join("locks")).with_context(|| {
            format!("cannot make the cache of shards in {} (data.cache_dir)", folder.display())
        })?;
        let folder = folder.canonicalize()?;
        Ok(Self { folder, bound, piece_bytes })
    }

    /// Most pieces of a range that is located at once: its first ones must not make room for its
    /// last ones.
    pub(super) fn most_pieces(&self) -> u64 {
        self.bound / self.piece_bytes / 2
    }

    /// The cache's name for the object at `url` in the state `stamp`.
    pub(super) fn object(&self, url: &str, stamp: Stamp) -> ObjectKey {
        let mut hasher = blake3::Hasher::new();
        for number in [self.piece_bytes, stamp.size, stamp.version] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(url.as_bytes());
        let mut key = [0; 16];
        hasher.finalize_xof().fill(&mut key);
        ObjectKey(key)
    }

    /// The file that holds `piece`, if it is here.
    pub(super) fn find(&self, piece: PieceKey) -> Option<Arc<Path>> {
        let path = self.path(piece);
        let metadata = fs::metadata(&path).ok()?;
        let now = SystemTime::now();
        let noted = metadata
            .modified()
            .is_ok_and(|used| now.duration_since(used).is_ok_and(|age| age < NOTED));
        if !noted {
            // Not more than a worse choice of what to evict comes of a failure.
            _ = File::open(&path).and_then(|file| file.set_modified(now));
        }
        (metadata.len() == piece.length).then(|| path.into())
    }

    /// The file that holds `piece`, filled by `fill` unless some process did that already.
    ///
    /// # Errors
    /// `fill` fails, or the folder cannot be written.
    pub(super) fn find_or_fill(
        &self,
        piece: PieceKey,
        fill: impl FnOnce(&File) -> Result<()>,
    ) -> Result<Arc<Path>> {
        let _writing = self.lock_piece(piece)?;
        if let Some(path) = self.find(piece) {
            return Ok(path);
        }
        let path = self.path(piece);
        let part = path.with_extension(PART);
        let reserve = || self.reserve(&part, piece.length);
        let delays = ConstantBuilder::new().with_delay(ROOM_DELAY).with_max_times(ROOM_TRIES);
        let reserved = reserve.retry(delays).when(|error| error.is::<NoRoom>()).call();
        let file = reserved.map_err(|error| self.explain(error))?;
        let filled = fill(&file).and_then(|()| {
            // Without this, a machine that loses power may keep a whole name over missing bytes.
            file.sync_data()?;
            let _counting = Usage::lock(&self.folder)?; // a count meets one of the two names
            Ok(fs::rename(&part, &path)?)
        });
        if let Err(error) = filled {
            self.give_up(&part)?;
            return Err(self.explain(error));
        }
        Ok(path.into())
    }

    fn path(&self, PieceKey { object, number, .. }: PieceKey) -> PathBuf {
        let object = u128::from_be_bytes(object.0);
        self.folder.join(format!("{object:032x}/{number:08}"))
    }

    /// The lock of whoever writes `piece`; waits for another writer.
    fn lock_piece(&self, piece: PieceKey) -> Result<File> {
        let path = self.lock_of(&self.path(piece));
        let lock = || -> io::Result<File> {
            let file = open_lock(&path)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(|error| no_lock(error, &path))
    }

    fn lock_of(&self, piece: &Path) -> PathBuf {
        let piece = piece.with_extension("");
        let name = piece.strip_prefix(&self.folder).unwrap_or(&piece);
        let hash = blake3::hash(name.as_os_str().as_encoded_bytes());
        let number = hash.as_bytes().iter().take(8).fold(0, |sum, &b| sum << 8 | u64::from(b));
        self.folder.join(format!("locks/{:04}", number % LOCKS))
    }

    /// A new part of `length` bytes, for which room is made.
    fn reserve(&self, part: &Path, length: u64) -> Result<File> {
        let mut usage = Usage::lock(&self.folder)?;
        // What a dead writer left of this very piece is taken over.
        if let Ok(left) = fs::metadata(part) {
            fs::remove_file(part)?;
            usage.bytes = usage.bytes.and_then(|bytes| bytes.checked_sub(left.len()));
        }
        let bytes = match usage.bytes {
            Some(bytes) if bytes + length <= self.bound => bytes,
            _ => self.make_room(length)?,
        };
        usage.write(Some(bytes + length))?;
        fs::create_dir_all(part.parent().unwrap_or(&self.folder))?;
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(part)?;
        file.set_len(length)?;
        Ok(file)
    }

    /// Removes a part that is not going to be finished.
    fn give_up(&self, part: &Path) -> Result<()> {
        let mut usage = Usage::lock(&self.folder)?;
        let Ok(metadata) = fs::metadata(part) else { return Ok(()) };
        fs::remove_file(part)?;
        let bytes = usage.bytes.and_then(|bytes| bytes.checked_sub(metadata.len()));
        usage.write(bytes)
    }

    /// Counts what is there and evicts what was used longest ago until `length` bytes fit. Only
    /// under the lock of [`Usage`]. Gives the bytes that are left.
    fn make_room(&self, length: u64) -> Result<u64> {
        let (mut pieces, writing) = self.list()?;
        let mut bytes = writing + pieces.iter().map(|piece| piece.length).sum::<u64>();
        if bytes + length <= self.bound {
            return Ok(bytes); // the number in the file was too high
        }
        let goal = (self.bound - self.bound / EMPTIED_PART).saturating_sub(length);
        pieces.sort_by_key(|piece| piece.used);
        for piece in pieces {
            if bytes <= goal {
                break;
            }
            remove(&piece.path)?;
            bytes -= piece.length;
            // Fails as long as the folder has other pieces, which is as it should be.
            _ = piece.path.parent().map(fs::remove_dir);
        }
        if bytes + length > self.bound {
            return Err(NoRoom.into());
        }
        Ok(bytes)
    }

    /// All pieces, and the bytes of parts that somebody writes. Parts of dead writers are removed.
    fn list(&self) -> Result<(Vec<Kept>, u64)> {
        let (mut pieces, mut writing) = (Vec::new(), 0);
        for folder in fs::read_dir(&self.folder)? {
            let folder = folder?.path();
            if !folder.is_dir() || folder.file_name() == Some(OsStr::new("locks")) {
                continue;
            }
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let Ok(metadata) = fs::metadata(&path) else { continue };
                if path.extension() != Some(OsStr::new(PART)) {
                    let used = metadata.modified()?;
                    pieces.push(Kept { path, length: metadata.len(), used });
                } else if self.is_being_written(&path)? {
                    writing += metadata.len();
                } else {
                    remove(&path)?;
                }
            }
        }
        Ok((pieces, writing))
    }

    fn is_being_written(&self, part: &Path) -> Result<bool> {
        match open_lock(&self.lock_of(part))?.try_lock() {
            Ok(()) => Ok(false),
            Err(fs::TryLockError::WouldBlock) => Ok(true),
            Err(fs::TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// Says what to do where the disk or the cache is full.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let folder = self.folder.display();
        let gigabytes = self.bound as f64 / 1e9;
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        let of_disk = |cause: &io::Error| full.contains(&cause.kind());
        if error.chain().any(|cause| cause.downcast_ref().is_some_and(of_disk)) {
            return anyhow!(
                "the disk of the cache of shards is full: {folder} may grow to {gigabytes} GB \
                 (data.cache_gigabytes); free some space, lower that, or set data.cache_dir to a \
                 folder on a larger disk"
            );
        }
        if error.is::<NoRoom>() {
            return anyhow!(
                "the cache of shards in {folder} is full of pieces that are just being written; \
                 raise data.cache_gigabytes (now {gigabytes})"
            );
        }
        error
    }
}

/// Says what to do where the cache's folder has no locks, without which processes would write over one another.
fn no_lock(error: io::Error, path: &Path) -> anyhow::Error {
    let way_out = match file_locks::are_missing(&error) {
        true => {
            ": its file system has no locks; set data.cache_dir to a folder on a disk of this machine"
        }
        false => "",
    };
    anyhow::Error::from(error).context(format!("cannot lock {}{way_out}", path.display()))
}

/// Every byte of the bound belongs to a piece that is being written.
#[derive(Debug, thiserror::Error)]
#[error("no room in the cache of shards")]
struct NoRoom;

/// The file with the sum of all pieces and parts, locked while this lives.
struct Usage {
    file: File,
    /// Nothing where the file is new or damaged: then all must be counted.
    bytes: Option<u64>,
}

impl Usage {
    fn lock(folder: &Path) -> Result<Self> {
        let lock = || -> io::Result<Self> {
            let mut file = open_lock(&folder.join("usage"))?;
            file.lock()?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(Self { file, bytes: text.trim().parse().ok() })
        };
        lock().map_err(|error| no_lock(error, &folder.join("usage")))
    }

    fn write(&mut self, bytes: Option<u64>) -> Result<()> {
        // The width is always the same, so that no shorter number leaves digits of a longer one.
        let text = bytes.map_or(" ".repeat(20), |bytes| format!("{bytes:020}"));
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.bytes = bytes;
        Ok(())
    }
}

/// Opens a file for its lock, making it and its folder where somebody removed the cache.
fn open_lock(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    open().or_else(|error| match (error.kind(), path.parent()) {
        (io::ErrorKind::NotFound, Some(folder)) => fs::create_dir_all(folder).and_then(|()| open()),
        _ => Err(error),
    })
}

/// Removes a file unless somebody else just did.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects users from a bare "no space left": it must say which disk and which keys, and the
    /// room of the piece that could not be written is given back.
    #[test]
    fn a_full_disk_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path()), 1.0, 100).unwrap();
        let stamp = Stamp { size: 100, version: 0 };
        let object = cache.object("s3://b/0.tar", stamp);
        let piece = PieceKey { object, number: 0, length: 100 };
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = cache.find_or_fill(piece, |_| Err(full.into())).unwrap_err().to_string();
        for part in ["data.cache_gigabytes", "data.cache_dir", folder.path().to_str().unwrap()] {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
        assert_eq!(Usage::lock(&cache.folder).unwrap().bytes, Some(0));
        assert!(cache.find(piece).is_none());
        cache.find_or_fill(piece, |_| Ok(())).unwrap();
        assert_eq!(Usage::lock(&cache.folder).unwrap().bytes, Some(100));
        assert!(cache.find(piece).is_some());
    }
    /// Protects what is in use: what was used longest ago makes room, and looking for a piece
    /// counts as use.
    #[test]
    fn the_least_recently_used_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path()), 1e-6, 100).unwrap(); // ten pieces
        let object = cache.object("s3://b/0.tar", Stamp { size: 10_000, version: 0 });
        let piece = |number| PieceKey { object, number, length: 100 };
        for number in 0..10 {
            let path = cache.find_or_fill(piece(number), |_| Ok(())).unwrap();
            let age = Duration::from_secs(100 - number);
            File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
        }
        assert!(cache.find(piece(0)).is_some());
        cache.find_or_fill(piece(10), |_| Ok(())).unwrap();
        let here = |number: &u64| cache.path(piece(*number)).exists();
        assert_eq!((0..11).filter(here).collect::<Vec<_>>(), [0, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(Usage::lock(&cache.folder).unwrap().bytes, Some(900));
    }
}
