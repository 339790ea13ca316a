//! [`Trunk`]: what vision transformers have behind their embedding, and the ways to run it.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::encoder::{EncoderShape, Input, RestOfBackward};
use super::tokens::Tokens;
use crate::nn::{Blocks, Junctions, LayerNorm, Rotary, Taps, gather_tokens};

/// Blocks and the final norm. Fields are named as the published checkpoints' tensors.
pub(super) struct Trunk {
    pub blocks: Blocks,
    pub norm: LayerNorm,
    pub shape: EncoderShape,
}

/// What a trunk takes: tokens `[B, P+K, D]`, and by what their queries and keys are turned, where positions are not
/// in the tokens.
pub(super) struct Embedded {
    pub tokens: Tensor,
    pub rotary: Option<Rotary>,
}

impl From<Tensor> for Embedded {
    fn from(tokens: Tensor) -> Self {
        Self { tokens, rotary: None }
    }
}

/// The `patches` `[B, N, …]` that `input` shows, and their `positions`, of `[1, N, D]`.
pub(super) fn shown(patches: Tensor, positions: Tensor, input: &Input) -> (Tensor, Tensor) {
    let Some(keep) = &input.keep else { return (patches, positions) };
    let (batch, kept) = keep.size2().expect("kept patches are [B, K]");
    let of_kept = positions.squeeze_dim(0).index_select(0, &keep.flatten(0, 1));
    (gather_tokens(&patches, keep), of_kept.view([batch, kept, -1]))
}

impl Trunk {
    /// [`Encoder::forward`](super::Encoder::forward) of `embedded` tokens.
    pub fn forward(&self, embedded: impl Into<Embedded>, input: &Input, compute: Kind) -> Tokens {
        let Embedded { tokens, rotary } = embedded.into();
        let mut taps = Taps::after(&input.taps);
        let (turned, drop_path) = (rotary.as_ref(), &input.drop_path);
        let all = self.blocks.forward(tokens, turned, drop_path, compute, &mut taps);
        self.shape.tokens(all, input, taps.into_tokens())
    }

    /// [`Encoder::forward_recomputed`](super::Encoder::forward_recomputed) of `embedded` tokens.
    ///
    /// # Panics
    /// If the input asks for the tokens after one of these blocks.
    pub fn forward_recomputed<'a>(
        &'a self,
        embedded: impl Into<Embedded>,
        input: &'a Input,
        compute: Kind,
        blocks: usize,
    ) -> (Tokens, RestOfBackward<'a>) {
        assert!(input.taps.iter().all(|&tap| tap >= blocks), "a recomputed block has no tap");
        let Embedded { tokens, rotary } = embedded.into();
        let mut taps = Taps::after(&input.taps);
        let drop_path = &input.drop_path;
        let turned = rotary.as_ref();
        let (all, kept) = self
            .blocks
            .forward_keeping_inputs(tokens, turned, drop_path, compute, blocks, &mut taps);
        let rest = move || self.blocks.backward(kept, rotary.as_ref(), drop_path, compute);
        (self.shape.tokens(all, input, taps.into_tokens()), Box::new(rest))
    }

    /// [`Encoder::forward_frozen`](super::Encoder::forward_frozen) of `embedded` tokens.
    ///
    /// # Errors
    /// A kernel of `junctions` fails.
    pub fn forward_frozen(
        &self,
        embedded: impl Into<Embedded>,
        input: &Input,
        compute: Kind,
        junctions: &Junctions,
    ) -> Result<Tokens> {
        let Embedded { tokens, rotary } = embedded.into();
        let mut taps = Taps::after(&input.taps);
        let turned = rotary.as_ref();
        let all = self.blocks.forward_frozen(tokens, turned, junctions, compute, &mut taps)?;
        Ok(self.shape.tokens(all, input, taps.into_tokens()))
    }
}
