//! Failures of requests, and whether a retry may help.

use anyhow::{Error, anyhow};

/// Why a request did not give what it was made for.
#[derive(Debug)]
pub(super) enum Failure {
    /// The network or the server was at fault; the same request may succeed later.
    Passing(Error),
    /// The same request will fail again.
    Lasting(Error),
}

impl Failure {
    pub(super) fn passing(message: impl std::fmt::Display) -> Self {
        Self::Passing(anyhow!("{message}"))
    }

    pub(super) fn lasting(message: impl std::fmt::Display) -> Self {
        Self::Lasting(anyhow!("{message}"))
    }

    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Passing(_))
    }

    pub(super) fn error(&self) -> &Error {
        let (Self::Passing(error) | Self::Lasting(error)) = self;
        error
    }

    pub(super) fn into_error(self) -> Error {
        let (Self::Passing(error) | Self::Lasting(error)) = self;
        error
    }

    /// Of an answer's status that is no success, with what to do about it. `access` says how
    /// credentials are given to this kind of server.
    pub(super) fn from_status(status: u16, detail: &str, access: &str) -> Self {
        let advice = match status {
            401 | 403 => format!("access is denied; {access}"),
            404 | 410 => "there is no such object; check its name".into(),
            416 => "the object ends before this place; did it change since it was indexed?".into(),
            408 | 425 | 429 | 500.. => "the server cannot answer now".into(),
            _ => "the server refuses the request".into(),
        };
        let message = format!("{advice} (status {status}{detail})");
        match status {
            501 | 505 => Self::lasting(message),
            408 | 425 | 429 | 500.. => Self::passing(message),
            _ => Self::lasting(message),
        }
    }
}
