//! Blocks that keep only their inputs of a forward pass, and are computed again in the backward
//! pass (Chen et al., 2016): a third more work for them, for much less memory.
//!
//! The graph is cut at these blocks' inputs. The backward pass ends at the first block that kept its
//! activations; from there on each block is run again by itself, given the gradient of its output.
//! So every parameter gets its gradient in one piece, as without the cuts.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::vit::{Vit, VitInput};
use crate::native::backward_from;

/// What is kept of a forward pass for [`Vit::backward`].
pub struct KeptInputs {
    /// The first block's input, with its history.
    embedded: Tensor,
    /// Inputs of the blocks that will be computed again, `[B, T, D]`, without history.
    inputs: Vec<Tensor>,
    /// Input of the block after these: where the graph of the other blocks begins.
    rest: Tensor,
}

impl Vit {
    /// [`Self::forward`] of which the first `blocks` blocks keep only their inputs. Once the loss
    /// has gone back, [`Self::backward`] takes the gradients the rest of the way.
    pub fn forward_keeping_inputs(
        &self,
        input: &VitInput,
        compute: Kind,
        blocks: usize,
    ) -> (Tensor, KeptInputs) {
        let embedded = self.embed(input, compute);
        let mut inputs = vec![embedded.detach()];
        tch::no_grad(|| {
            for block in 0..blocks {
                let next = self.block(block, inputs[block].shallow_clone(), true, input, compute);
                inputs.push(next);
            }
        });
        let rest = inputs.pop().expect("the embedding at least").set_requires_grad(true);
        let first = (blocks, rest.shallow_clone());
        let tokens = self.blocks_from(first, true, input, compute, |_, _| ());
        (tokens, KeptInputs { embedded, inputs, rest })
    }

    /// The backward pass through the blocks that kept only their inputs, and the embedding.
    ///
    /// # Errors
    /// libtorch's message.
    pub fn backward(&self, kept: KeptInputs, input: &VitInput, compute: Kind) -> Result<()> {
        let KeptInputs { embedded, mut inputs, rest } = kept;
        let mut gradient = rest.grad();
        drop(rest);
        while let Some(leaf) = inputs.pop() {
            let leaf = leaf.set_requires_grad(true);
            let output = self.block(inputs.len(), leaf.shallow_clone(), true, input, compute);
            backward_from(&output, &gradient)?;
            gradient = leaf.grad();
        }
        backward_from(&embedded, &gradient)
    }
}
