//! Objects behind URLs: fetched in pieces, kept in the cache, ahead of their use where hinted.

use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use crossbeam::channel::{Receiver, Sender, bounded};

use super::address::without_secrets;
use super::cache::{Cache, PieceKey};
use super::failure::Failure;
use super::segment::Segment;
use super::stamp::Stamp;
use super::store::{Store, Transfer};

/// The fetcher of objects behind URLs, and its queue for fetching ahead.
pub(super) struct Remote {
    fetcher: Arc<Fetcher>,
    queue: Sender<Piece>,
}

/// Fetches pieces into the cache.
struct Fetcher {
    store: Arc<Store>,
    cache: Cache,
    /// Pieces in the queue or under way in the background: each is hinted at many times.
    expected: Mutex<HashSet<PieceKey>>,
}

/// A piece with what it takes to fetch it.
#[derive(Clone)]
struct Piece {
    url: Arc<str>,
    stamp: Stamp,
    key: PieceKey,
    start: u64,
}

impl Remote {
    /// Opens the cache and starts the threads that fetch ahead.
    pub(super) fn start(folder: Option<&Path>, gigabytes: f64, transfer: Transfer) -> Result<Self> {
        let cache = Cache::open(folder, gigabytes, transfer.piece_bytes)?;
        let (queue, waiting) = bounded(transfer.queue);
        let threads = transfer.background;
        let store = Arc::new(Store::new(transfer)?);
        let fetcher = Arc::new(Fetcher { store, cache, expected: Mutex::default() });
        for number in 0..threads {
            let (fetcher, waiting) = (fetcher.clone(), waiting.clone());
            std::thread::Builder::new()
                .name(format!("shards-ahead-{number}"))
                .spawn(move || fetcher.fetch_ahead(&waiting))
                .context("cannot start a thread for downloads")?;
        }
        Ok(Self { fetcher, queue })
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.fetcher.store
    }

    /// The pieces that hold `range` of an object, fetched where they are not here.
    pub(super) fn locate(
        &self,
        url: &str,
        stamp: Stamp,
        range: Range<u64>,
    ) -> Result<Vec<Segment>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let pieces = self.fetcher.pieces(url, stamp, range.clone())?;
        let most = self.fetcher.cache.most_pieces();
        ensure!(
            pieces.len() as u64 <= most,
            "{}: {} bytes at once do not fit the cache; raise data.cache_gigabytes",
            without_secrets(url),
            range.end - range.start
        );
        // The first one is fetched here; others may come at the same time.
        pieces.iter().skip(1).for_each(|piece| self.fetch_soon(piece));
        let locate = |piece: &Piece| -> Result<Segment> {
            let path = self.fetcher.find_or_fetch(piece)?;
            let from = range.start.max(piece.start);
            let to = range.end.min(piece.start + piece.key.length);
            Ok(Segment { path, offset: from - piece.start, length: to - from })
        };
        pieces.iter().map(locate).collect()
    }

    /// Has the pieces of `range` fetched in the background, as far as the queue has room.
    pub(super) fn prefetch(&self, url: &str, stamp: Stamp, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // A range outside of the object is an error of `locate`, which tells of it.
        if let Ok(pieces) = self.fetcher.pieces(url, stamp, range) {
            pieces.iter().for_each(|piece| self.fetch_soon(piece));
        }
    }

    fn fetch_soon(&self, piece: &Piece) {
        let fetcher = &self.fetcher;
        if !fetcher.expected().insert(piece.key) {
            return;
        }
        let known = fetcher.cache.find(piece.key).is_some();
        if known || self.queue.try_send(piece.clone()).is_err() {
            fetcher.expected().remove(&piece.key);
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.fetcher.store.close();
    }
}

impl Fetcher {
    fn pieces(&self, url: &str, stamp: Stamp, range: Range<u64>) -> Result<Vec<Piece>> {
        ensure!(
            range.end <= stamp.size,
            "{}: bytes {range:?} are beyond its end at {}",
            without_secrets(url),
            stamp.size
        );
        let object = self.cache.object(url, stamp);
        let piece_bytes = self.store.transfer().piece_bytes;
        let url: Arc<str> = url.into();
        let numbers = range.start / piece_bytes..=(range.end - 1) / piece_bytes;
        let piece = |number| {
            let start = number * piece_bytes;
            let length = piece_bytes.min(stamp.size - start);
            Piece { url: url.clone(), stamp, key: PieceKey { object, number, length }, start }
        };
        Ok(numbers.map(piece).collect())
    }

    fn find_or_fetch(&self, piece: &Piece) -> Result<Arc<Path>> {
        if let Some(path) = self.cache.find(piece.key) {
            return Ok(path);
        }
        self.cache
            .find_or_fill(piece.key, |file| self.fetch(piece, file))
            .with_context(|| without_secrets(&piece.url))
    }

    fn fetch(&self, piece: &Piece, file: &File) -> Result<()> {
        let range = piece.start..piece.start + piece.key.length;
        self.store.fetch(&piece.url, piece.stamp, range, |place, bytes| {
            let write = file.write_all_at(bytes, place - piece.start);
            write.map_err(|error| Failure::Lasting(error.into()))
        })
    }

    fn fetch_ahead(&self, waiting: &Receiver<Piece>) {
        for piece in waiting {
            if self.store.is_closing() {
                return;
            }
            // Whoever needs the piece tries again and gets the error.
            if let Err(error) = self.find_or_fetch(&piece) {
                tracing::debug!("not fetched ahead: {error:#}");
            }
            self.expected().remove(&piece.key);
        }
    }

    fn expected(&self) -> std::sync::MutexGuard<'_, HashSet<PieceKey>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
