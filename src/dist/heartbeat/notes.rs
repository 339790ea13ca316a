//! The notes in which processes tell each other that they live, and that one has failed.

use std::net::SocketAddr;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::dist::activity::Activity;
use crate::dist::kv_store::KvStore;
use crate::dist::pace::Pace;

pub(super) const FAILURE: &str = "failure";
pub(super) const SUSPICION: &str = "suspicion";
pub(super) const ABANDONED: &str = "abandoned";
pub(super) const STOP: &str = "stop";

/// Why a run of many processes cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("rank {rank} ({host}) {what} at step {step}")]
pub struct Failure {
    /// The process that failed.
    pub rank: usize,
    /// Its node and process number.
    pub host: String,
    /// The step that it was working on, from 1.
    pub step: u64,
    pub what: String,
    /// Whether the configuration is at fault.
    pub usage: bool,
}

/// A process's sign of life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Sign {
    pub beat: u64,
    /// A count that grows whenever the training thread makes progress.
    pub progress: u64,
    pub step: u64,
    pub activity: Activity,
    pub host: String,
    /// Where its system answers as long as it lives.
    pub lifeline: Option<SocketAddr>,
    /// What its steps were spent on.
    pub pace: Pace,
}

/// Where the sign of `rank` is.
pub(super) fn key(rank: usize) -> String {
    format!("heartbeat/{rank}")
}

pub(super) fn read<T: for<'a> Deserialize<'a>>(note: &[u8]) -> Option<T> {
    serde_json::from_slice(note).ok()
}

/// The sign of life of `rank`, if it has given one.
pub(super) fn sign_of(store: &dyn KvStore, rank: usize) -> Result<Option<Sign>> {
    Ok(store.get(&key(rank))?.and_then(|note| read(&note)))
}

/// Puts up `failure`. The first that is put up is everybody's.
pub(super) fn post(store: &dyn KvStore, failure: &Failure) -> Result<()> {
    if store.get(FAILURE)?.is_none() {
        store.set(FAILURE, &serde_json::to_vec(failure)?)?;
    }
    Ok(())
}

/// For a restarted process that finds the store of the attempt before: tells the others of that
/// attempt that the former process is gone, so that they end too.
pub fn report_former_self(store: &dyn KvStore) -> Result<()> {
    let rank = store.rank();
    let sign = sign_of(store, rank)?;
    let (host, step) = sign.map_or((host_and_process(), 0), |sign| (sign.host, sign.step));
    let what = "was started anew: its former process was gone".into();
    post(store, &Failure { rank, host, step, what, usage: false })
}

pub(super) fn host_and_process() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{name}, process {}", std::process::id())
}
