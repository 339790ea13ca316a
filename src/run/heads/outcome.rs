//! How a training of heads ends.

use super::figures::HeadResult;

/// How a training of heads ended that did not fail.
#[derive(Debug)]
pub enum HeadsOutcome {
    /// Of several processes the first one alone has the results.
    Finished(Vec<HeadResult>),
    /// A signal asked for an end after so many updates; the same command goes on.
    Stopped(u64),
}
