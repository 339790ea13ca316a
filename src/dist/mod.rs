//! Many processes that train one set of students: who this process is, what all of them know, and
//! how their gradients become one.

mod agreement;
mod board;
pub mod environment;
mod gradients;
pub mod launcher;
mod pulse;
mod rendezvous;
mod store_board;
mod team;

pub use agreement::require_equal_weights;
pub use board::{Alone, Board};
pub use environment::{Place, Rendezvous};
pub use gradients::{GradientExchange, Share};
pub use pulse::{Activity, Failure};
pub use rendezvous::StoppedEarly;
pub use team::{Abandoned, Team};
