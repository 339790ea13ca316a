//! Ends of a run that are no failures, which callers tell apart by type.

/// Some process will not take part in the step under way, because the run is to stop: the state
/// before that step is the one to save.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the step was given up, because a rank was asked to stop")]
pub struct Abandoned;

/// This process was asked to stop before all had joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("asked to stop before all ranks had joined")]
pub struct StoppedEarly;
