//! The store of many processes: libtorch's TCP store.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::environment::RankInfo;
use super::error::StoppedEarly;
use super::kv_store::KvStore;
use crate::native::c10d::Store;

/// How long one attempt to connect may take.
const LONGEST_CONNECT: Duration = Duration::from_secs(10);
/// How long rank 0 tries to listen at a port that may be taken.
const LONGEST_LISTEN: Duration = Duration::from_secs(10);

/// A connection of this process to the run's store.
pub struct TcpKvStore {
    tcp: Store,
    rank: usize,
    world_size: usize,
}

impl TcpKvStore {
    /// Connects to the store of `rank_info`, which rank 0 keeps (`serve`) unless the launcher does.
    ///
    /// # Errors
    /// Nobody answers within `timeout`, or rank 0 cannot listen at the port.
    pub fn open(rank_info: &RankInfo, serve: bool, timeout: Duration) -> Result<Self> {
        let rendezvous = &rank_info.rendezvous;
        let (host, port) = (rendezvous.host.as_str(), rendezvous.port);
        let begun = Instant::now();
        // The rank 0 of an earlier attempt may take its time to let go of the port.
        let patience =
            if serve && rendezvous.attempt == 0 { timeout.min(LONGEST_LISTEN) } else { timeout };
        let store = loop {
            match Store::open(host, port, serve, timeout.min(LONGEST_CONNECT)) {
                Ok(store) => break store,
                Err(_) if begun.elapsed() < patience => {
                    thread::sleep(patience.min(LONGEST_CONNECT) / 20)
                }
                Err(error) => {
                    let what = match serve {
                        true => "rank 0 cannot listen",
                        false => "rank 0 does not answer",
                    };
                    return Err(error).with_context(|| {
                        format!(
                            "{what} at {host}:{port} (MASTER_ADDR, MASTER_PORT: if another program \
                             has that port, choose another one)"
                        )
                    });
                }
            }
        };
        // Rank 0 takes its store along when it ends; torchrun's agent keeps it between attempts.
        let attempt = if rendezvous.hosted_by_launcher { rendezvous.attempt } else { 0 };
        let store = store.prefixed(&format!("distill/{attempt}"))?;
        Ok(Self { tcp: store, rank: rank_info.rank, world_size: rank_info.world_size })
    }

    /// The store, for what libtorch writes into it itself.
    pub fn tcp(&self) -> &Store {
        &self.tcp
    }

    /// Adds one to the number under `key`, and gives the sum.
    ///
    /// # Errors
    /// The store is gone.
    pub fn count(&self, key: &str) -> Result<i64> {
        self.tcp.count(key).map_err(gone)
    }

    /// The number under `key`, 0 if there is none.
    ///
    /// # Errors
    /// The store is gone, or what is there is no number.
    pub fn counted(&self, key: &str) -> Result<i64> {
        let Some(note) = self.get(key)? else { return Ok(0) };
        Ok(std::str::from_utf8(&note)?.parse()?)
    }

    /// Waits for a note; `None` if there is none within `timeout`.
    ///
    /// # Errors
    /// The store is gone, or `stop` says that this process was asked to end.
    pub fn wait_for(
        &self,
        key: &str,
        timeout: Duration,
        stop: fn() -> bool,
    ) -> Result<Option<Vec<u8>>> {
        let begun = Instant::now();
        let mut pause = Pause::default();
        loop {
            match self.get(key)? {
                Some(note) => return Ok(Some(note)),
                None if begun.elapsed() > timeout => return Ok(None),
                None if stop() => bail!(StoppedEarly),
                None => pause.take(),
            }
        }
    }
}

/// The first pause between looks at a note that is not there yet, and the longest.
const FIRST_NOTE_POLL: Duration = Duration::from_millis(5);
const LONGEST_NOTE_POLL: Duration = Duration::from_millis(500);

/// A pause between polls, which grows, because a thousand ranks may poll for the same note.
pub struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(FIRST_NOTE_POLL)
    }
}

impl Pause {
    pub fn take(&mut self) {
        thread::sleep(self.0);
        self.0 = (self.0 * 3 / 2).min(LONGEST_NOTE_POLL);
    }
}

fn gone(error: anyhow::Error) -> anyhow::Error {
    anyhow!("the store of the run is gone ({error:#})")
}

impl KvStore for TcpKvStore {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn set(&self, key: &str, note: &[u8]) -> Result<()> {
        self.tcp.set(key, note).map_err(gone)
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.tcp.get(key).map_err(gone)
    }

    fn remove(&self, key: &str) -> Result<()> {
        self.tcp.delete(key).map_err(gone)
    }
}
