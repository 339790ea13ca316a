//! A stack of transformer blocks, run in three ways: plainly, for a backward pass that computes
//! blocks again, and as a part of an encoder that stays as it is.
//!
//! Computing again (Chen et al., 2016) is a third more work for much less memory. The graph is cut at
//! the inputs of these blocks. The backward pass ends at the first block that kept its activations;
//! from there on each block is run again by itself, given the gradient of its output. So every
//! parameter gets its gradient in one piece, as without the cuts.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::block::{Block, BlockShape};
use super::drop_path::DropPath;
use super::frozen::{FrozenFormat, Junctions};
use super::parameters::Parameters;
use super::rotary::Rotary;
use crate::native::backward_from;

/// Blocks that follow one another.
pub struct Blocks(Vec<Block>);

/// What is kept of a forward pass for [`Blocks::backward`].
pub struct KeptInputs {
    /// The first block's input, with its history.
    embedded: Tensor,
    /// Inputs of the blocks that will be computed again, `[B, T, D]`, without history.
    inputs: Vec<Tensor>,
    /// Input of the block after these: where the graph of the other blocks begins.
    rest: Tensor,
}

impl Blocks {
    /// So many blocks, the parameters of block i under `NAME.i`.
    pub fn new(parameters: &mut Parameters, name: &str, shape: &BlockShape, depth: usize) -> Self {
        let block = |index| Block::new(parameters, &format!("{name}.{index}"), shape);
        Self((0..depth).map(block).collect())
    }

    /// Number of blocks.
    pub fn depth(&self) -> usize {
        self.0.len()
    }

    /// The residual stream after the last block, `[B, T, D]`, given the first one's input
    /// `embedded`, which may be overwritten. Matrix products run in `compute` (float32 or bf16).
    /// `after_block` sees the stream after each block; the next block may overwrite it. Where there are `rotary`
    /// positions, queries and keys of all blocks are turned by them.
    pub fn forward(
        &self,
        embedded: Tensor,
        rotary: Option<&Rotary>,
        drop_path: &DropPath,
        compute: Kind,
        after_block: impl FnMut(usize, &Tensor),
    ) -> Tensor {
        self.forward_from((0, embedded), false, rotary, drop_path, compute, after_block)
    }

    /// [`Self::forward`] from a block on, given its input, which may be overwritten unless it is
    /// kept.
    fn forward_from(
        &self,
        (first, mut residual): (usize, Tensor),
        is_kept: bool,
        rotary: Option<&Rotary>,
        drop_path: &DropPath,
        compute: Kind,
        mut after_block: impl FnMut(usize, &Tensor),
    ) -> Tensor {
        for index in first..self.depth() {
            let is_kept = is_kept && index == first;
            residual = self.block((index, residual), is_kept, rotary, drop_path, compute);
            after_block(index, &residual);
        }
        residual
    }

    /// One block.
    fn block(
        &self,
        (index, residual): (usize, Tensor),
        is_kept: bool,
        rotary: Option<&Rotary>,
        drop_path: &DropPath,
        compute: Kind,
    ) -> Tensor {
        self.0[index].forward(residual, is_kept, rotary, compute, drop_path.of_block(index))
    }

    /// [`Self::forward`] of which the first `count` blocks keep only their inputs. Once the loss has
    /// gone back, [`Self::backward`] takes the gradients the rest of the way. `after_block` sees the
    /// stream after each of the other blocks.
    pub fn forward_keeping_inputs(
        &self,
        embedded: Tensor,
        rotary: Option<&Rotary>,
        drop_path: &DropPath,
        compute: Kind,
        count: usize,
        after_block: impl FnMut(usize, &Tensor),
    ) -> (Tensor, KeptInputs) {
        let mut inputs = vec![embedded.detach()];
        tch::no_grad(|| {
            for block in 0..count {
                let input = inputs[block].shallow_clone();
                inputs.push(self.block((block, input), true, rotary, drop_path, compute));
            }
        });
        let rest = inputs.pop().expect("the embedding at least").set_requires_grad(true);
        let first = (count, rest.shallow_clone());
        let tokens = self.forward_from(first, true, rotary, drop_path, compute, after_block);
        (tokens, KeptInputs { embedded, inputs, rest })
    }

    /// The backward pass through the blocks that kept only their inputs, and what embedded them.
    pub fn backward(
        &self,
        kept: KeptInputs,
        rotary: Option<&Rotary>,
        drop_path: &DropPath,
        compute: Kind,
    ) -> Result<()> {
        let KeptInputs { embedded, mut inputs, rest } = kept;
        let mut gradient = rest.grad();
        drop(rest);
        while let Some(leaf) = inputs.pop() {
            let leaf = leaf.set_requires_grad(true);
            let input = leaf.shallow_clone();
            let output = self.block((inputs.len(), input), true, rotary, drop_path, compute);
            backward_from(&output, &gradient)?;
            gradient = leaf.grad();
        }
        backward_from(&embedded, &gradient)
    }

    /// [`Self::forward`] of blocks that are not trained: what lies between their products is
    /// that of `junctions`. `embedded` is overwritten.
    ///
    /// # Errors
    /// A kernel of `junctions` fails.
    pub fn forward_frozen(
        &self,
        embedded: Tensor,
        rotary: Option<&Rotary>,
        junctions: &Junctions,
        compute: Kind,
        mut after_block: impl FnMut(usize, &Tensor),
    ) -> Result<Tensor> {
        let mut residual = embedded;
        let mut branch: Option<Tensor> = None;
        for (index, block) in self.0.iter().enumerate() {
            let before = branch.take();
            let attention =
                block.frozen_attention(&mut residual, before, rotary, junctions, compute)?;
            if let Some(before) = index.checked_sub(1) {
                after_block(before, &residual);
            }
            branch = Some(block.frozen_mlp(&mut residual, attention, junctions, compute)?);
        }
        let Some(branch) = branch else { return Ok(residual) };
        let residual = residual.g_add_(&branch);
        after_block(self.depth() - 1, &residual);
        Ok(residual)
    }

    /// Keeps every parameter in the format that it is used in. For blocks that stay as they are.
    pub fn freeze(&mut self, format: FrozenFormat) {
        self.0.iter_mut().for_each(|block| block.freeze(format));
    }
}
