//! Objects of a plain HTTP server: `HEAD`, and `GET` of byte ranges.

use std::error::Error as _;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use futures_util::{StreamExt, stream};
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED, RANGE,
};
use reqwest::{Client, Response, StatusCode};

use super::answer::{Answer, Body};
use super::client::{REQUEST_PATIENCES, choose_cryptography};
use super::failure::Failure;
use super::stamp::Stamp;

/// An object up to this size is taken whole from a server that knows no byte ranges; of a larger
/// one, far more would be thrown away than kept.
const MOST_WHOLE_BYTES: u64 = 64 << 20;

const ACCESS: &str = "does the URL need credentials, or did a signed link run out?";

/// A client of all HTTP servers of a process.
pub(super) struct HttpClient {
    client: Client,
}

impl HttpClient {
    /// A client that gives up on a connection that is silent for `patience`.
    pub(super) fn new(patience: Duration) -> Result<Self> {
        choose_cryptography();
        let client = Client::builder()
            .user_agent(concat!("distill/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(patience)
            .read_timeout(patience)
            .timeout(patience * REQUEST_PATIENCES)
            .http1_only()
            .build()
            .context("cannot set up HTTP")?;
        Ok(Self { client })
    }

    /// Size and version of the object.
    ///
    /// Links that are signed for `GET` and some servers refuse `HEAD`, so its first byte is asked
    /// for where that fails.
    pub(super) async fn stamp(&self, url: &str) -> Result<Stamp, Failure> {
        let head = self.client.head(url).send().await.map_err(failure)?;
        let size = number(head.headers(), CONTENT_LENGTH);
        if let (true, Some(size)) = (head.status().is_success(), size) {
            return Ok(stamp(head.headers(), size));
        }
        let answer = self.get(url, 0..1).await?;
        let unknown = || Failure::lasting("the server does not say how large the object is");
        answer.stamp.ok_or_else(unknown)
    }

    /// The bytes of `range`, or of the whole object where the server knows no ranges.
    pub(super) async fn get(&self, url: &str, range: Range<u64>) -> Result<Answer, Failure> {
        let last = range.end - 1;
        let request = self.client.get(url).header(RANGE, format!("bytes={}-{last}", range.start));
        let response = request.send().await.map_err(failure)?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => part(response, range),
            StatusCode::OK => whole(response),
            status => Err(Failure::from_status(status.as_u16(), "", ACCESS)),
        }
    }
}

fn part(response: Response, asked: Range<u64>) -> Result<Answer, Failure> {
    let header = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let Some((range, size)) = header.and_then(content_range) else {
        return Err(Failure::lasting("the server does not say which part of the object it sent"));
    };
    // Less than was asked for is allowed; what is missing is asked for again.
    if range.start != asked.start || range.is_empty() || range.end > asked.end {
        return Err(Failure::passing(format!(
            "the server sent bytes {range:?} where {asked:?} were asked for"
        )));
    }
    let length = number(response.headers(), CONTENT_LENGTH);
    if length.is_some_and(|length| length != range.end - range.start) {
        return Err(Failure::passing("the server sent a body of another length than it announced"));
    }
    let stamp = size.map(|size| stamp(response.headers(), size));
    Ok(Answer { stamp, range, body: body(response) })
}

fn whole(response: Response) -> Result<Answer, Failure> {
    let size = number(response.headers(), CONTENT_LENGTH);
    let Some(size) = size.filter(|&size| size <= MOST_WHOLE_BYTES) else {
        return Err(Failure::lasting(format!(
            "the server knows no byte ranges, and the object is too large to be fetched whole for \
             each part of it (over {} MB); use a server that does, or download the shards",
            MOST_WHOLE_BYTES >> 20
        )));
    };
    let stamp = Some(stamp(response.headers(), size));
    Ok(Answer { stamp, range: 0..size, body: body(response) })
}

/// Range and full size from `bytes 0-99/1000`; the size may be `*`.
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let end = last.trim().parse::<u64>().ok()?.checked_add(1)?;
    let size = match size.trim() {
        "*" => None,
        size => Some(size.parse().ok()?),
    };
    Some((first.trim().parse().ok()?..end, size))
}

fn number(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

fn stamp(headers: &HeaderMap, size: u64) -> Stamp {
    let version = headers.get(ETAG).or_else(|| headers.get(LAST_MODIFIED));
    Stamp::from_object(size, version.map_or(&[], |value| value.as_bytes()))
}

/// The bytes of an answer as they come in.
fn body(response: Response) -> Body {
    let next = |mut response: Response| async move {
        let chunk = response.chunk().await.map_err(failure)?;
        Ok(chunk.map(|chunk| (chunk, response)))
    };
    stream::try_unfold(response, next).boxed()
}

/// A failed connection or a cut body. The URL is taken out: it may hold credentials, and the
/// message names the shard already.
fn failure(error: reqwest::Error) -> Failure {
    let lasting = error.is_builder() || error.is_redirect();
    let distrusted = distrusts(&error);
    let error = Error::new(error.without_url());
    if distrusted {
        Failure::Lasting(error.context(
            "the server's certificate is not trusted; install its authority's, or name it in \
             SSL_CERT_FILE",
        ))
    } else if lasting {
        Failure::Lasting(error)
    } else {
        Failure::Passing(error)
    }
}

/// Whether a certificate is the reason, which no waiting changes.
fn distrusts(error: &reqwest::Error) -> bool {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let mut failures = causes.filter_map(|cause| cause.downcast_ref().and_then(tls_failure));
    failures.any(|failure| matches!(failure, rustls::Error::InvalidCertificate(_)))
}

/// What TLS said, from within the errors of input and output that each layer puts around it.
fn tls_failure(error: &std::io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    inner.downcast_ref().or_else(|| inner.downcast_ref().and_then(tls_failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(content_range("bytes 0-99/1000"), Some((0..100, Some(1000))));
        assert_eq!(content_range("bytes 5-5/*"), Some((5..6, None)));
        for bad in ["bytes */1000", "0-99/1000", "bytes 0-18446744073709551615/9", "bytes 9/10"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
