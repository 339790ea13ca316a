//! A hub's API: what a repository holds at a revision, and its files, from any byte on.

use std::collections::BTreeSet;
use std::error::Error as _;

use anyhow::{Context, Error, Result, anyhow};
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, RANGE,
};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;
use tokio::runtime::{Builder, Runtime};

use super::address::Address;
use super::settings::{Settings, Token};

/// A client of a hub.
pub(super) struct Server {
    client: Client,
    /// Follows a server's own links alone: what another answers says nothing of the file.
    own_links: Client,
    runtime: Runtime,
    endpoint: String,
    token: Option<Token>,
}

/// Why a hub did not give what it was asked for.
pub(super) enum Failure {
    /// The network or the server was at fault; the same request may succeed later.
    Passing(Error),
    /// The same request will fail again.
    Lasting(Error),
}

/// A repository at a revision.
pub(super) struct Contents {
    pub commit: String,
    pub files: BTreeSet<String>,
    /// What it says of its licence: the short name of a common one or that of its own, and where that is to be read.
    pub licence: Option<(String, Option<String>)>,
}

/// A file of a repository.
pub(super) struct FileFacts {
    /// What its content is kept under: a sum of it.
    pub tag: String,
    pub size: u64,
}

#[derive(Deserialize)]
struct Model {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
    #[serde(default, rename = "cardData")]
    card: Option<Card>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// The head of a model's card, of which other things may have any form.
#[derive(Deserialize, Default)]
struct Card {
    #[serde(default)]
    license: Option<serde_json::Value>,
    #[serde(default)]
    license_name: Option<String>,
    #[serde(default)]
    license_link: Option<String>,
}

impl Server {
    pub fn new(settings: Settings) -> Result<Self> {
        // An error means that somebody else chose one already, which is as good.
        _ = rustls::crypto::ring::default_provider().install_default();
        let client = |policy| {
            Client::builder()
                .user_agent(concat!("distill/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(settings.silence)
                .read_timeout(settings.silence)
                .redirect(policy)
                .build()
                .context("cannot set up HTTP")
        };
        Ok(Self {
            client: client(Policy::default())?,
            own_links: client(Policy::custom(within_host))?,
            runtime: Builder::new_current_thread().enable_all().build()?,
            endpoint: settings.endpoint,
            token: settings.token,
        })
    }

    /// What the repository holds at the revision of `address`.
    pub fn contents(&self, address: &Address) -> Result<Contents, Failure> {
        let revision = address.revision().replace('/', "%2F");
        let url =
            format!("{}/api/models/{}/revision/{revision}", self.endpoint, address.repository());
        let body = self.runtime.block_on(async {
            let response = self.send(self.client.get(&url)).await?;
            let response = self.accepted(response, address)?;
            response.bytes().await.map_err(|error| self.failed(error))
        })?;
        let model: Model = serde_json::from_slice(&body).map_err(|error| {
            let message = format!("{} does not answer as a hub does", self.endpoint);
            Failure::Lasting(Error::new(error).context(message))
        })?;
        // It becomes the name of a folder.
        if model.sha.is_empty() || !model.sha.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            let message = format!("{} names a commit `{}`", self.endpoint, model.sha);
            return Err(Failure::Lasting(anyhow!(message)));
        }
        Ok(Contents {
            commit: model.sha,
            files: model.siblings.into_iter().map(|sibling| sibling.rfilename).collect(),
            licence: model.card.and_then(Card::licence),
        })
    }

    /// What there is to know of a `file` of the commit of `address` before it is fetched.
    pub fn file(&self, address: &Address, file: &str) -> Result<FileFacts, Failure> {
        let url = self.url(address, file);
        let response = self.runtime.block_on(self.send(self.own_links.head(&url)))?;
        // A link to where large files lie is an answer, too.
        let response = match response.status().is_redirection() {
            true => response,
            false => self.accepted(response, address)?,
        };
        let headers = response.headers();
        let tag = text(headers, "x-linked-etag").or_else(|| text(headers, ETAG.as_str()));
        let size =
            text(headers, "x-linked-size").or_else(|| text(headers, CONTENT_LENGTH.as_str()));
        let tag = tag.map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_string());
        let is_plain = |tag: &String| {
            !tag.is_empty()
                && tag.len() < 200
                && tag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        };
        match (tag.filter(is_plain), size.and_then(|size| size.parse().ok())) {
            (Some(tag), Some(size)) => Ok(FileFacts { tag, size }),
            _ => Err(Failure::Lasting(anyhow!(
                "{} does not say which state of {file} it has, or how large that is",
                self.endpoint
            ))),
        }
    }

    /// Hands the bytes of a `file` from `start` on to `take` as they come, and says how many there were. A server that
    /// sends the file from its beginning instead has `take` begin anew, which is told of it.
    pub fn fetch(
        &self,
        address: &Address,
        file: &str,
        start: u64,
        take: &mut dyn FnMut(Piece) -> Result<()>,
    ) -> Result<(), Failure> {
        let mut request = self.client.get(self.url(address, file));
        if start > 0 {
            request = request.header(RANGE, format!("bytes={start}-"));
        }
        self.runtime.block_on(async {
            let mut response = self.accepted(self.send(request).await?, address)?;
            let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
            if is_part {
                let range = text(response.headers(), CONTENT_RANGE.as_str()).unwrap_or_default();
                if !range.starts_with(&format!("bytes {start}-")) {
                    let message =
                        format!("bytes from {start} on were asked for, and `{range}` sent");
                    return Err(Failure::Passing(anyhow!(message)));
                }
            } else if start > 0 {
                take(Piece::Anew).map_err(Failure::Lasting)?;
            }
            while let Some(bytes) = response.chunk().await.map_err(|error| self.failed(error))? {
                take(Piece::Bytes(&bytes)).map_err(Failure::Lasting)?;
            }
            Ok(())
        })
    }

    fn url(&self, address: &Address, file: &str) -> String {
        let (repository, revision) = (address.repository(), address.revision().replace('/', "%2F"));
        format!("{}/{repository}/resolve/{revision}/{file}", self.endpoint)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, Failure> {
        // Sizes are those of the files.
        let request = request.header(ACCEPT_ENCODING, "identity");
        let request = match &self.token {
            // The client takes it away where a link leads to another host.
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {}", token.secret)),
            None => request,
        };
        request.send().await.map_err(|error| self.failed(error))
    }

    /// The answer if it is a good one.
    fn accepted(&self, response: Response, address: &Address) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let code = text(response.headers(), "x-error-code").unwrap_or_default();
        let error = anyhow!("{} (status {})", self.refusal(status, code, address), status.as_u16());
        Err(match status.as_u16() {
            408 | 425 | 429 | 500 | 502..=504 => Failure::Passing(error),
            _ => Failure::Lasting(error),
        })
    }

    /// What an answer means that is none, and what to do.
    fn refusal(&self, status: StatusCode, code: &str, address: &Address) -> String {
        let (host, repository) = (&self.endpoint, address.repository());
        let sign_in = match &self.token {
            None => "run `hf auth login`, or set HF_TOKEN".to_string(),
            Some(token) => {
                format!("use a token of that account in place of that of {}", token.source)
            }
        };
        match (status.as_u16(), code) {
            (_, "GatedRepo") | (403, _) => format!(
                "{repository} is gated: accept its conditions at {host}/{repository} with your account, then {sign_in}"
            ),
            (_, "RevisionNotFound") => {
                format!(
                    "{repository} has no revision `{}`: see {host}/{repository}/commits/main",
                    address.revision()
                )
            }
            (404, "EntryNotFound") => format!("{repository} does not have this file"),
            (401, "") if self.token.is_some() => {
                let source = self.token.as_ref().map_or("", |token| token.source.as_str());
                format!(
                    "the token of {source} is not accepted for {repository}: make a new one, or take it away"
                )
            }
            (401 | 404, _) => format!(
                "there is no model {repository} at {host}, or it is private: check the name; to see a private one, \
                 {sign_in}"
            ),
            (429, _) => "too many requests were made: wait some minutes, or sign in".into(),
            (500.., _) => format!("{host} cannot answer now"),
            _ => format!("{host} refuses the request"),
        }
    }

    /// A failed connection or a cut answer. The URL is taken out: a signed link is a secret.
    fn failed(&self, error: reqwest::Error) -> Failure {
        let lasting = error.is_builder() || error.is_redirect();
        let mut causes = std::iter::successors(error.source(), |&cause| cause.source());
        let cause = causes.by_ref().last().map_or_else(|| error.to_string(), ToString::to_string);
        let host = &self.endpoint;
        let message = match (error.is_builder(), error.is_connect()) {
            (true, _) => {
                format!(
                    "HF_ENDPOINT is `{host}`, which is no server's: expected https://… ({cause})"
                )
            }
            (_, true) => format!("{host} cannot be reached ({cause})"),
            _ => format!("the connection with {host} broke ({cause})"),
        };
        match lasting {
            true => Failure::Lasting(anyhow!(message)),
            false => Failure::Passing(anyhow!(message)),
        }
    }
}

/// What comes of a file.
pub(super) enum Piece<'a> {
    /// It comes from its beginning on.
    Anew,
    Bytes(&'a [u8]),
}

impl Card {
    fn licence(self) -> Option<(String, Option<String>)> {
        let short = self.license.and_then(|value| match value {
            serde_json::Value::String(name) => Some(name),
            serde_json::Value::Array(names) => names.first()?.as_str().map(str::to_string),
            _ => None,
        });
        Some((self.license_name.or(short)?, self.license_link))
    }
}

/// Follows links as long as they stay on a host.
fn within_host(attempt: Attempt) -> reqwest::redirect::Action {
    let before = attempt.previous().last().and_then(|url| url.host_str().map(str::to_string));
    let stays = before.as_deref() == attempt.url().host_str();
    match stays && attempt.previous().len() < 10 {
        true => attempt.follow(),
        false => attempt.stop(),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}
