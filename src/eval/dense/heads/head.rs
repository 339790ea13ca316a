//! [`Head`]: what every head can be asked.

use anyhow::Result;
use tch::{Kind, Tensor};

use crate::dist::ProcessGroup;

/// A head: maps in, an output at every place out.
pub trait Head {
    /// The output `[B, K, h', w']` before it is enlarged to the size of the images, float32, for the
    /// maps `[B, C, h, w]` of the blocks that the head takes. Convolutions run in `compute` (float32
    /// or bf16).
    ///
    /// # Errors
    /// Another rank failed.
    fn output(&self, maps: &[Tensor], pass: Pass<'_>, compute: Kind) -> Result<Tensor>;

    /// Whether the output for an image depends in training on the others of the global batch.
    fn joins_images(&self) -> bool {
        false
    }

    /// State that is no parameter, by name.
    fn buffers(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }
}

/// What a head is used for.
#[derive(Clone, Copy)]
pub enum Pass<'a> {
    /// In an update, with these other processes.
    Training(&'a ProcessGroup),
    Test,
}
