//! One pass over an object from its begin to its end, past the cache.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};

use super::address::without_secrets;
use super::failure::Failure;
use super::stamp::Stamp;
use super::store::Store;

/// Reads an object in large windows, the next one while the present one is used.
pub(super) struct ObjectReader {
    store: Arc<Store>,
    url: Arc<str>,
    stamp: Stamp,
    position: u64,
    window: Window,
    ahead: Option<Ahead>,
}

/// Bytes of the object from `start` on.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// The window from `start` on, on its way.
struct Ahead {
    start: u64,
    bytes: JoinHandle<Result<Vec<u8>>>,
}

impl ObjectReader {
    /// A reader at the begin of the object at `url`, which must stay in the state `stamp`.
    pub(super) fn new(store: Arc<Store>, url: &str, stamp: Stamp) -> Self {
        let window = Window::default();
        Self { store, url: url.into(), stamp, position: 0, window, ahead: None }
    }

    fn window_bytes(&self) -> u64 {
        self.store.transfer().piece_bytes
    }

    /// Makes `window` one that begins at or before `position` and ends after it.
    fn load(&mut self) -> Result<()> {
        let next_end = self.window.end() + self.window_bytes();
        let onward = (self.window.end()..next_end).contains(&self.position);
        let ahead = self.ahead.take().filter(|ahead| onward && ahead.start == self.window.end());
        self.window = match ahead {
            Some(Ahead { start, bytes }) => {
                let bytes =
                    bytes.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                Window { start, bytes }
            }
            None => {
                let bytes = fetch(&self.store, &self.url, self.stamp, self.position)?;
                Window { start: self.position, bytes }
            }
        };
        // After a jump over more than a window, the next one may well be jumped over, too.
        let start = self.window.end();
        if onward && start < self.stamp.size {
            let (store, url, stamp) = (self.store.clone(), self.url.clone(), self.stamp);
            let bytes = std::thread::Builder::new()
                .name("object-ahead".into())
                .spawn(move || fetch(&store, &url, stamp, start))?;
            self.ahead = Some(Ahead { start, bytes });
        }
        Ok(())
    }
}

/// A window of the object from `start` on.
fn fetch(store: &Store, url: &str, stamp: Stamp, start: u64) -> Result<Vec<u8>> {
    let end = stamp.size.min(start + store.transfer().piece_bytes);
    let mut bytes = Vec::with_capacity((end - start) as usize);
    store
        .fetch(url, stamp, start..end, |place, piece| {
            bytes.truncate((place - start) as usize); // a try that begins anew
            bytes.extend_from_slice(piece);
            Ok::<(), Failure>(())
        })
        .with_context(|| without_secrets(url))?;
    Ok(bytes)
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.stamp.size || buffer.is_empty() {
            return Ok(0);
        }
        if !(self.window.start..self.window.end()).contains(&self.position) {
            self.load().map_err(io::Error::other)?;
        }
        let rest = &self.window.bytes[(self.position - self.window.start) as usize..];
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for ObjectReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::End(distance) => self.stamp.size.checked_add_signed(distance),
            SeekFrom::Current(distance) => self.position.checked_add_signed(distance),
        };
        let before = || io::Error::new(io::ErrorKind::InvalidInput, "a place before the begin");
        self.position = place.ok_or_else(before)?;
        Ok(self.position)
    }
}
