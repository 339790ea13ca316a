//! Weights that a model hub keeps: `hf://owner/name[@revision]` becomes a folder of this machine.
//!
//! An [`Address`] names a repository at a revision. [`server`] speaks the API of the Hugging Face Hub, [`download`]
//! brings one file whole and goes on where a connection was cut, [`files`] says which files of a repository are
//! weights, and [`cache`] lays them down as Python's `huggingface_hub` does, which finds them there, as we find its.
//! [`snapshot`] puts these together, and [`licence`] tells once of terms that are not the usual free ones.

mod address;
mod cache;
mod download;
mod files;
mod licence;
mod lock;
mod server;
mod settings;
mod snapshot;

pub use address::Address;
pub use snapshot::{description, pinned, weights};
