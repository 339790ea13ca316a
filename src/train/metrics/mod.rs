//! What a run writes down about itself: `metrics.jsonl` and TensorBoard event files.

mod jsonl;
mod log;
mod tensorboard;

pub use log::MetricsLog;
pub use tensorboard::unix_seconds;
