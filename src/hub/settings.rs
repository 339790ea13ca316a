//! What the environment says of hubs, in the variables of Python's `huggingface_hub`.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::durable;

const ENDPOINT: &str = "https://huggingface.co";

/// Silence of a server after which a request is made again.
const SILENCE: Duration = Duration::from_secs(30);

/// Where a hub is, who asks, and where its files are kept.
pub(super) struct Settings {
    /// Without a slash at its end.
    pub endpoint: String,
    /// The folder with a folder for every repository.
    pub cache: PathBuf,
    pub token: Option<Token>,
    /// Whether no server may be asked.
    pub offline: bool,
    pub silence: Duration,
}

/// What proves who asks.
pub(super) struct Token {
    pub secret: String,
    /// What it was taken from, for messages.
    pub source: String,
}

impl Settings {
    /// Reads `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE` and
    /// `HF_HUB_DOWNLOAD_TIMEOUT`.
    ///
    /// # Errors
    /// There is no home folder to keep files in.
    pub fn from_environment() -> Result<Self> {
        let home = folder("HF_HOME").or_else(|| Some(durable::user_cache()?.join("huggingface")));
        let cache = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub")));
        let seconds = value("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|text| text.parse().ok());
        Ok(Self {
            endpoint: value("HF_ENDPOINT")
                .map_or(ENDPOINT.into(), |text| text.trim_end_matches('/').to_string()),
            cache: cache.context("there is no folder for weights of a hub: set HF_HOME")?,
            token: token(home),
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
            silence: seconds.filter(|&seconds| seconds > 0).map_or(SILENCE, Duration::from_secs),
        })
    }
}

/// That of the environment, else that of the file that `hf auth login` writes.
fn token(home: Option<PathBuf>) -> Option<Token> {
    if let Some(secret) = value("HF_TOKEN").or_else(|| value("HUGGING_FACE_HUB_TOKEN")) {
        return Some(Token { secret, source: "HF_TOKEN".into() });
    }
    let file = folder("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")))?;
    let secret = fs::read_to_string(&file).ok()?.trim().to_string();
    (!secret.is_empty()).then(|| Token { secret, source: file.display().to_string() })
}

/// A variable that is set and not empty.
fn value(name: &str) -> Option<String> {
    let text = env::var(name).ok()?.trim().to_string();
    (!text.is_empty()).then_some(text)
}

/// A folder that a variable names, with `~` for the user's own.
fn folder(name: &str) -> Option<PathBuf> {
    let text = value(name)?;
    match (text.strip_prefix("~/"), env::var_os("HOME")) {
        (Some(rest), Some(home)) => Some(PathBuf::from(home).join(rest)),
        _ => Some(text.into()),
    }
}

fn is_on(name: &str) -> bool {
    value(name).is_some_and(|text| {
        ["1", "on", "yes", "true"].contains(&text.to_ascii_lowercase().as_str())
    })
}
