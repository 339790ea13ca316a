//! Many processes that train one set of students: who this process is, what all of them know, and
//! how their gradients become one.

mod board;
pub mod environment;

pub use board::{Alone, Board};
pub use environment::{Place, Rendezvous};
