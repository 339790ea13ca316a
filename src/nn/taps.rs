//! Tokens in the middle of a model.

use tch::Tensor;

/// Tokens after some blocks, kept as a pass comes by.
#[derive(Default)]
pub struct Taps {
    /// Counted from 0, ascending.
    blocks: Vec<usize>,
    tokens: Vec<Tensor>,
}

impl Taps {
    /// After these blocks, counted from 0, ascending.
    pub fn after(blocks: &[usize]) -> Self {
        Self { blocks: blocks.to_vec(), tokens: Vec::new() }
    }

    /// Whether the tokens after this block are wanted.
    pub(super) fn want(&self, block: usize) -> bool {
        self.blocks.contains(&block)
    }

    /// Keeps a copy of the `tokens` `[B, T, D]` after this block, if they are wanted; the next block may overwrite
    /// them.
    pub(super) fn pass(&mut self, block: usize, tokens: &Tensor) {
        if self.want(block) {
            self.tokens.push(tokens.copy());
        }
    }

    /// Keeps `tokens` `[B, T, D]` of the next block that is wanted, which nothing overwrites.
    pub(super) fn take(&mut self, tokens: Tensor) {
        self.tokens.push(tokens);
    }

    /// Those of each block, in their order.
    pub fn into_tokens(self) -> Vec<Tensor> {
        self.tokens
    }
}
