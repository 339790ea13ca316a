//! The store of many processes: libtorch's TCP store.

use std::net::ToSocketAddrs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tracing::warn;

use super::environment::RankInfo;
use super::error::StoppedEarly;
use super::kv_store::KvStore;
use crate::native::c10d::Store;

/// Most ranks that a message names.
const MOST_NAMED: usize = 16;

/// How long one attempt to connect may take.
const LONGEST_CONNECT: Duration = Duration::from_secs(10);
/// When it is said that a host is not known yet.
const FIRST_WORD: Duration = Duration::from_secs(8);
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
        resolve(host, port, patience)?;
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
                            "{what} at {host}:{port} (MASTER_ADDR must lead to the machine of rank 0; \
                             if another program has its MASTER_PORT, choose another one)"
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

    /// Those of `ranks` that have left no note under their `key`.
    ///
    /// # Errors
    /// The store is gone.
    pub fn without_note(&self, ranks: &[usize], key: fn(usize) -> String) -> Result<Vec<usize>> {
        let mut without = Vec::new();
        for &rank in ranks {
            if self.get(&key(rank))?.is_none() {
                without.push(rank);
            }
        }
        Ok(without)
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

/// Waits until `host` is a name that this machine knows: those of pods and fresh nodes may come late.
///
/// # Errors
/// It is none within `patience`.
fn resolve(host: &str, port: u16, patience: Duration) -> Result<()> {
    let begun = Instant::now();
    let mut is_told = false;
    loop {
        let Err(error) = (host, port).to_socket_addrs() else { return Ok(()) };
        if begun.elapsed() > patience {
            return Err(error)
                .with_context(|| format!("MASTER_ADDR: this machine knows no host `{host}`"));
        }
        if begun.elapsed() > FIRST_WORD && !is_told {
            warn!("MASTER_ADDR: this machine knows no host `{host}` yet; it is waited for");
            is_told = true;
        }
        thread::sleep(patience.min(LONGEST_CONNECT) / 20);
    }
}

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

/// Ranks for a message: the first of them.
pub fn some_of(ranks: &[usize]) -> String {
    let named: Vec<String> = ranks.iter().take(MOST_NAMED).map(usize::to_string).collect();
    named.join(", ") + if ranks.len() > MOST_NAMED { ", ..." } else { "" }
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::dist::environment::Rendezvous;

    const OPENING: Duration = Duration::from_millis(500);

    /// Passes on what comes; if `late`, later than an opening may take.
    fn forward(mut from: TcpStream, mut to: TcpStream, late: Arc<AtomicBool>) {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            if late.load(Ordering::Relaxed) {
                thread::sleep(OPENING * 2);
            }
            if to.write_all(&bytes[..length]).is_err() {
                return;
            }
        }
    }

    /// What a stopped rank 0 is to the others. How long they wait is not the store's to say.
    #[test]
    fn late_answers_are_waited_for() {
        let port = || TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (slow, behind) = (port(), port().local_addr().unwrap().port());
        let at = |port: u16, rank: usize| {
            let rendezvous =
                Rendezvous { host: "127.0.0.1".into(), port, ..RankInfo::alone().rendezvous };
            RankInfo { rank, world_size: 2, rendezvous, ..RankInfo::alone() }
        };
        let first = TcpKvStore::open(&at(behind, 0), true, OPENING).unwrap();
        first.set("note", b"text").unwrap();
        let slow_port = slow.local_addr().unwrap().port();
        let is_late = Arc::new(AtomicBool::new(false));
        let late = is_late.clone();
        thread::spawn(move || {
            while let Ok((client, _)) = slow.accept() {
                let server = TcpStream::connect(("127.0.0.1", behind)).unwrap();
                let (back, forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let late = late.clone();
                thread::spawn(move || std::io::copy(&mut &client, &mut &server));
                thread::spawn(move || forward(back, forth, late));
            }
        });
        let second = TcpKvStore::open(&at(slow_port, 1), false, OPENING).unwrap();
        is_late.store(true, Ordering::Relaxed);
        assert_eq!(second.get("note").unwrap().as_deref(), Some(&b"text"[..]));
    }
}
