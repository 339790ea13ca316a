//! Worker processes: each decodes and crops one sample at a time into shared memory.
//!
//! A worker is told where an image's bytes are and where its crop goes ([`protocol`]), and knows
//! nothing else: which image stands where, what replaces a bad one and what is fetched from afar
//! is decided in the trainer. So a worker that dies loses nothing but the work on its unanswered
//! jobs, which its replacement does again ([`process`]). [`serve`] is the worker's own side.

mod process;
mod protocol;
mod serve;

pub(crate) use process::WorkerProcess;
pub use protocol::PROGRAM;
pub(crate) use protocol::{FieldJob, FileSegment, Job, Reply};
pub use serve::main;
