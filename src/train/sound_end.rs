//! Errors that end a run and leave weights that are worth keeping.

use std::error::Error as StdError;
use std::fmt;

use anyhow::Error;

/// An error that has not touched the weights: data that cannot be read, a log that cannot be written, an update
/// that was skipped because its numbers are not finite.
#[derive(Debug)]
pub struct SoundEnd {
    pub error: Error,
    /// The first step whose update was skipped, and with it those of all steps queued after it. None: every step
    /// that is queued counts.
    pub skipped: Option<u64>,
}

impl SoundEnd {
    /// An error beside the steps.
    pub fn beside(error: Error) -> Error {
        Self { error, skipped: None }.into()
    }

    /// An error for which the update of `step` was skipped.
    pub fn skipped(error: Error, step: u64) -> Error {
        Self { error, skipped: Some(step) }.into()
    }
}

impl fmt::Display for SoundEnd {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, text)
    }
}

impl StdError for SoundEnd {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
    }
}
