//! The board of many processes: libtorch's TCP store.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Board, Place};
use crate::native::c10d::Store;

/// How long a request for a connection is repeated before it is made anew.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection of this process to the run's store.
pub struct StoreBoard {
    store: Store,
    rank: usize,
    world_size: usize,
}

impl StoreBoard {
    /// Connects to the store of `place`, which rank 0 keeps unless the launcher does.
    ///
    /// # Errors
    /// Nobody answers within `timeout`, or rank 0 cannot listen at the port.
    pub fn open(place: &Place, serve: bool, timeout: Duration) -> Result<Self> {
        let rendezvous = &place.rendezvous;
        let (host, port) = (rendezvous.host.as_str(), rendezvous.port);
        let begun = Instant::now();
        let store = loop {
            // A process of an earlier attempt may still hold the port, or answer at it.
            match Store::open(host, port, serve, timeout.min(CONNECT)) {
                Ok((store, _)) => break store,
                Err(_) if begun.elapsed() < timeout => {
                    std::thread::sleep(timeout.min(CONNECT) / 20)
                }
                Err(error) => {
                    let what = match serve {
                        true => "rank 0 cannot listen",
                        false => "rank 0 does not answer",
                    };
                    return Err(error).with_context(|| {
                        format!("{what} at {host}:{port} (MASTER_ADDR, MASTER_PORT)")
                    });
                }
            }
        };
        let store = store.prefixed(&format!("distill/{}", rendezvous.attempt))?;
        Ok(Self { store, rank: place.rank, world_size: place.world_size })
    }

    /// The store, for what libtorch writes into it itself.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

impl Board for StoreBoard {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn put(&self, key: &str, note: &[u8]) -> Result<()> {
        self.store.set(key, note).context("the store of the run is gone")
    }

    fn look(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.store.get(key).context("the store of the run is gone")
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.store.delete(key).context("the store of the run is gone")
    }
}
