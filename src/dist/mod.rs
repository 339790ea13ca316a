//! Training with many processes: ranks, key-value store, heartbeats, collectives, exchange of
//! gradients, launcher.

mod activity;
mod agreement;
mod connecting;
pub mod environment;
mod error;
mod gathering;
mod gradients;
mod heartbeat;
mod kv_store;
pub mod launcher;
mod pace;
mod process_group;
mod rendezvous;
mod tcp_store;

pub use activity::{Activity, ActivityGuard};
pub use agreement::require_equal_weights;
pub use environment::{RankInfo, Rendezvous};
pub use error::{Abandoned, StoppedEarly};
pub use gradients::{GradientExchange, Share};
pub use heartbeat::Failure;
pub use kv_store::{KvStore, LocalStore};
pub use pace::{Pace, RankPace};
pub use process_group::ProcessGroup;
