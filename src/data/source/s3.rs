//! Objects of S3 and of servers that speak like it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{
    ClientConfigKey, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig,
};

use super::answer::Answer;
use super::client::{REQUEST_PATIENCES, choose_cryptography};
use super::failure::Failure;
use super::stamp::Stamp;

const ACCESS: &str = "are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, \
                      AWS_REGION, AWS_ENDPOINT_URL where needed) right for it? A public object \
                      needs AWS_SKIP_SIGNATURE=true";

/// Where a machine in Amazon's cloud is asked for the credentials of its role.
const ROLE_PATH: &str = "/latest/";

/// The buckets that a process reads from, each set up at its first use from the environment's
/// `AWS_` variables.
pub(super) struct S3Buckets {
    patience: Duration,
    buckets: Mutex<HashMap<String, AmazonS3>>,
}

impl S3Buckets {
    /// Buckets whose connections may be silent for `patience`.
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, buckets: Mutex::default() }
    }

    /// Size and version of the object.
    pub(super) async fn stamp(&self, url: &str) -> Result<Stamp, Failure> {
        let (bucket, key) = self.object(url)?;
        Ok(stamp(&bucket.head(&key).await.map_err(failure)?))
    }

    /// The bytes of `range`.
    pub(super) async fn get(&self, url: &str, range: Range<u64>) -> Result<Answer, Failure> {
        let (bucket, key) = self.object(url)?;
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let result = bucket.get_opts(&key, options).await.map_err(failure)?;
        let stamp = Some(stamp(&result.meta));
        let range = result.range.clone();
        Ok(Answer { stamp, range, body: result.into_stream().map_err(failure).boxed() })
    }

    /// Keys of all objects below `folder` of the bucket of `url`; only those directly in it
    /// unless `deep`.
    pub(super) async fn list(
        &self,
        bucket: &str,
        folder: &str,
        deep: bool,
    ) -> Result<Vec<String>, Failure> {
        let store = self.bucket(bucket)?;
        let folder = Path::parse(folder).map_err(Failure::lasting)?;
        let objects: Vec<ObjectMeta> = if deep {
            store.list(Some(&folder)).try_collect().await.map_err(failure)?
        } else {
            store.list_with_delimiter(Some(&folder)).await.map_err(failure)?.objects
        };
        Ok(objects.into_iter().map(|object| object.location.to_string()).collect())
    }

    fn object(&self, url: &str) -> Result<(AmazonS3, Path), Failure> {
        let (bucket, key) = bucket_and_key(url);
        if bucket.is_empty() || key.is_empty() {
            return Err(Failure::lasting("expected s3://BUCKET/KEY"));
        }
        Ok((self.bucket(bucket)?, Path::parse(key).map_err(Failure::lasting)?))
    }

    fn bucket(&self, name: &str) -> Result<AmazonS3, Failure> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get(name) {
            return Ok(bucket.clone());
        }
        choose_cryptography();
        let text = |duration: Duration| format!("{}ms", duration.as_millis());
        let client = AmazonS3ConfigKey::Client;
        let bucket = AmazonS3Builder::from_env()
            .with_bucket_name(name)
            // Tries are counted in one place, for every kind of server.
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_config(client(ClientConfigKey::ConnectTimeout), text(self.patience))
            .with_config(client(ClientConfigKey::ReadTimeout), text(self.patience))
            .with_config(client(ClientConfigKey::Timeout), text(self.patience * REQUEST_PATIENCES))
            .build()
            .map_err(Failure::lasting)?;
        buckets.insert(name.to_string(), bucket.clone());
        Ok(bucket)
    }
}

/// `a` and `b/c` of `s3://a/b/c`.
pub(super) fn bucket_and_key(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("s3://").unwrap_or(url);
    rest.split_once('/').unwrap_or((rest, ""))
}

fn stamp(object: &ObjectMeta) -> Stamp {
    match &object.e_tag {
        Some(tag) => Stamp::from_object(object.size, tag.as_bytes()),
        None => Stamp::from_object(object.size, object.last_modified.to_rfc3339().as_bytes()),
    }
}

/// A failed request or a cut body, by what the store's library says about it.
fn failure(error: object_store::Error) -> Failure {
    use object_store::Error;
    match &error {
        Error::NotFound { .. } => Failure::from_status(404, &code(&error), ACCESS),
        Error::PermissionDenied { .. } => Failure::from_status(403, &code(&error), ACCESS),
        Error::Unauthenticated { .. } => Failure::from_status(401, &code(&error), ACCESS),
        Error::Generic { .. } => match status(&error) {
            Some(status) => Failure::from_status(status, &code(&error), ACCESS),
            None if says(&error, "incorrectly configured region") => Failure::lasting(
                "the bucket lies in another region; set AWS_REGION to that one (or \
                 AWS_ENDPOINT_URL to the server's address)",
            ),
            None if says(&error, ROLE_PATH) => Failure::passing(format!(
                "no credentials: neither does the environment have AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY, nor does this machine have a role; a public object needs \
                 AWS_SKIP_SIGNATURE=true ({})",
                brief(&error)
            )),
            None if says(&error, "builder error") => Failure::lasting(format!(
                "{}; a server without TLS needs AWS_ALLOW_HTTP=true",
                brief(&error)
            )),
            None => Failure::passing(brief(&error)),
        },
        _ => Failure::lasting(brief(&error)),
    }
}

/// The status of an answer that was no success. The library keeps it in the message only.
fn status(error: &object_store::Error) -> Option<u16> {
    let text = error.to_string();
    let (_, status) = text.split_once("non-2xx status code: ")?;
    status.split(' ').next()?.trim_end_matches(':').parse().ok()
}

/// `, NoSuchBucket`: the code in the answer that S3 sends with an error, where there is one.
fn code(error: &object_store::Error) -> String {
    let text = error.to_string();
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    code.map_or(String::new(), |(code, _)| format!(", {code}"))
}

fn says(error: &object_store::Error, words: &str) -> bool {
    error.to_string().contains(words)
}

/// The message and the cause at the root: the library repeats in each message what is below it.
fn brief(error: &object_store::Error) -> String {
    let text = error.to_string();
    let mut root: &dyn std::error::Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    let root = root.to_string();
    if text.contains(&root) { text } else { format!("{text}: {root}") }
}
