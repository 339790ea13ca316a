//! Saved training states: written whole or not at all, checked when read.
//!
//! `checkpoints/step-N/` holds for each trainee `NAME.safetensors` (weights) and
//! `NAME.optimizer.safetensors` (AdamW's moments), and `manifest.json` with every file's size and
//! BLAKE3 checksum. Where several ranks wrote a share each, there are `NAME-00001-of-00004.safetensors`
//! and so on instead; a tensor that was held in parts is stored in parts, whose names say which
//! elements they are: `first_moment.pos_embed[0..64/1x8x32]`. Any number of ranks can read them.
//!
//! A checkpoint is written under another name, flushed to the disk and renamed, so a folder with
//! the final name is complete unless something damaged it later; that is what the checksums find.

mod coordination;
mod copying;
mod folders;
mod job;
mod pinned;
mod progress;
mod read;
mod save;
mod shares;
mod state;

pub use copying::Copying;
pub use folders::{free_name, newest, remove_partial, set_aside_after, set_aside_damaged};
pub use job::Saved;
pub use read::Checkpoint;
pub use save::{Saver, Snapshot};
pub use state::{Part, StateTensor, TraineeState};
