//! Requests to HTTP and S3 servers, retried where that may help.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result};
use backon::{BlockingRetryable, ExponentialBuilder};
use tokio::runtime::Runtime;

use super::address::without_secrets;
use super::answer::{Answer, Take};
use super::failure::Failure;
use super::http::HttpClient;
use super::s3::S3Buckets;
use super::stamp::Stamp;

/// How objects are fetched.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Size of the pieces that objects are fetched and kept in. A request's fixed cost, 30 to 50
    /// ms at S3, is then a part of the 100 ms that 8 MiB take at the 80 MB/s of one connection,
    /// while a shard of 1 GB is still 120 pieces, so that a start does not wait for whole shards.
    pub piece_bytes: u64,
    /// Longest silence of a server.
    pub patience: Duration,
    /// How many times a failed request is made again.
    pub retries: usize,
    /// Wait before the first of them; it doubles each time.
    pub first_delay: Duration,
    /// Most that is waited between two tries.
    pub longest_delay: Duration,
    /// Pieces that are fetched ahead at a time.
    pub background: usize,
    /// Pieces that may wait to be fetched ahead.
    pub queue: usize,
}

impl Default for Transfer {
    /// Together the tries last between one and a half and three minutes.
    fn default() -> Self {
        Self {
            piece_bytes: 8 << 20,
            patience: Duration::from_secs(30),
            retries: 10,
            first_delay: Duration::from_millis(200),
            longest_delay: Duration::from_secs(20),
            background: 8,
            queue: 256,
        }
    }
}

/// Clients of all servers of a process, with the runtime that they work on.
pub(super) struct Store {
    runtime: Runtime,
    http: HttpClient,
    s3: S3Buckets,
    transfer: Transfer,
    closing: AtomicBool,
}

impl Store {
    pub(super) fn new(transfer: Transfer) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("shards")
            .enable_all()
            .build()
            .context("cannot start threads for downloads")?;
        Ok(Self {
            runtime,
            http: HttpClient::new(transfer.patience)?,
            s3: S3Buckets::new(transfer.patience),
            transfer,
            closing: AtomicBool::new(false),
        })
    }

    pub(super) fn transfer(&self) -> &Transfer {
        &self.transfer
    }

    /// Ends downloads that are under way in the background: nobody waits for them any more.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Size and version of an object.
    ///
    /// # Errors
    /// There is no such object, access is denied, or the server does not answer.
    pub(super) fn stamp(&self, url: &str) -> Result<Stamp> {
        self.retried(url, || {
            self.runtime.block_on(async {
                if url.starts_with("s3://") {
                    self.s3.stamp(url).await
                } else {
                    self.http.stamp(url).await
                }
            })
        })
        .with_context(|| without_secrets(url))
    }

    /// Keys in a folder of a bucket; also in the folders below it if `deep`.
    pub(super) fn list(&self, bucket: &str, folder: &str, deep: bool) -> Result<Vec<String>> {
        let url = format!("s3://{bucket}/{folder}");
        let list = || self.runtime.block_on(self.s3.list(bucket, folder, deep));
        self.retried(&url, list).with_context(|| url.clone())
    }

    /// Hands the bytes of `range` to `take`, each piece with its place in the object. After a
    /// failure it goes on where the good bytes ended; a piece may come again from there.
    ///
    /// # Errors
    /// As for [`Store::stamp`]; also if the object is not in the state `stamp`. Which object it was
    /// is left to the caller to say.
    pub(super) fn fetch(
        &self,
        url: &str,
        stamp: Stamp,
        range: Range<u64>,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), Failure>,
    ) -> Result<()> {
        let mut position = range.start;
        self.retried(url, || {
            let rest = position..range.end;
            let one_try = self.fetch_once(url, stamp, rest, &mut take);
            let (reached, result) = self.runtime.block_on(one_try);
            position = reached;
            result?;
            if position < range.end {
                return Err(Failure::passing(format!(
                    "the server sent bytes up to {position} only"
                )));
            }
            Ok(())
        })
    }

    async fn fetch_once(
        &self,
        url: &str,
        stamp: Stamp,
        range: Range<u64>,
        take: &mut Take<'_>,
    ) -> (u64, Result<(), Failure>) {
        let answer = if url.starts_with("s3://") {
            self.s3.get(url, range.clone()).await
        } else {
            self.http.get(url, range.clone()).await
        };
        match answer {
            Ok(answer) => self.deliver(answer, stamp, range, take).await,
            Err(failure) => (range.start, Err(failure)),
        }
    }

    async fn deliver(
        &self,
        answer: Answer,
        stamp: Stamp,
        range: Range<u64>,
        take: &mut Take<'_>,
    ) -> (u64, Result<(), Failure>) {
        let mut take_unless_closing = |place, bytes: &[u8]| match self.is_closing() {
            true => Err(Failure::lasting("the download was cancelled")),
            false => take(place, bytes),
        };
        answer.deliver(stamp, range, &mut take_unless_closing).await
    }

    fn retried<T>(&self, url: &str, request: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        let Transfer { retries, first_delay, longest_delay, .. } = self.transfer;
        let shown = without_secrets(url);
        let delays = ExponentialBuilder::new()
            .with_jitter()
            .with_factor(2.0)
            .with_min_delay(first_delay)
            .with_max_delay(longest_delay)
            .with_max_times(retries);
        let start = Instant::now();
        let mut tries = 1;
        let result = request
            .retry(delays)
            .when(|failure| failure.is_passing() && !self.is_closing())
            .notify(|failure, delay| {
                tries += 1;
                tell(&shown, failure.error(), delay);
            })
            .call();
        result.map_err(|failure| match (tries, failure.is_passing()) {
            (2.., true) => {
                let lasted = start.elapsed();
                failure.into_error().context(format!("gave up after {tries} tries in {lasted:.0?}"))
            }
            _ => failure.into_error(),
        })
    }
}

/// Short waits are a busy server's everyday life; a longer one explains why nothing moves.
fn tell(shown: &str, error: &Error, delay: Duration) {
    if delay < Duration::from_secs(1) {
        tracing::debug!("{shown}: {error:#}; trying again in {delay:.1?}");
    } else {
        tracing::warn!("{shown}: {error:#}; trying again in {delay:.1?}");
    }
}
