//! [`Trunk`]: what vision transformers have behind their embedding, the ways to run it, and encoders that have one.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::encoder::{Encoder, EncoderShape, Input, RestOfBackward};
use super::tokens::Tokens;
use crate::nn::{Blocks, FrozenFormat, Junctions, LayerNorm, Rotary, Taps, gather_tokens};

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

/// An encoder that is an embedding before a [`Trunk`].
pub(super) trait OverTrunk {
    fn trunk(&self) -> &Trunk;

    fn trunk_mut(&mut self) -> &mut Trunk;

    /// What the trunk takes of `input`: float32 unless frozen otherwise. Products run in `compute`.
    fn embed(&self, input: &Input, compute: Kind) -> Embedded;

    /// [`Encoder::normalise`] of `[B, T, D]`, unless the family leaves tokens as they are.
    fn normalise(&self, tokens: &Tensor) -> Tensor {
        self.trunk().norm.forward(tokens)
    }

    /// [`Encoder::pooled`]: the first class token after the final norm, unless the family pools otherwise.
    fn pooled(&self, tokens: &Tokens) -> Tensor {
        let first = tokens.all.narrow(1, 0, 1);
        self.trunk().norm.forward(&first).to_kind(Kind::Float).squeeze_dim(1)
    }

    /// [`Encoder::freeze`] of what stands before the trunk.
    fn freeze_embedding(&mut self, format: FrozenFormat, grid_size: i64);
}

impl<T: OverTrunk> Encoder for T {
    fn shape(&self) -> EncoderShape {
        self.trunk().shape
    }

    fn forward(&self, input: &Input, compute: Kind) -> Tokens {
        self.trunk().forward(self.embed(input, compute), input, compute)
    }

    fn forward_recomputed<'a>(
        &'a self,
        input: &'a Input,
        compute: Kind,
        blocks: usize,
    ) -> (Tokens, RestOfBackward<'a>) {
        self.trunk().forward_recomputed(self.embed(input, compute), input, compute, blocks)
    }

    fn forward_frozen(
        &self,
        input: &Input,
        compute: Kind,
        junctions: &Junctions,
    ) -> Result<Tokens> {
        self.trunk().forward_frozen(self.embed(input, compute), input, compute, junctions)
    }

    fn normalise(&self, tokens: Tokens) -> Tokens {
        tokens.map(|all| OverTrunk::normalise(self, &all))
    }

    fn pooled(&self, tokens: &Tokens) -> Tensor {
        OverTrunk::pooled(self, tokens)
    }

    fn freeze(&mut self, format: FrozenFormat, grid_size: i64) {
        self.freeze_embedding(format, grid_size);
        let trunk = self.trunk_mut();
        trunk.blocks.freeze(format);
        trunk.norm.freeze(format.residual);
    }

    fn train_in_fp8(&mut self, least_weights: usize) -> Vec<&'static str> {
        self.trunk_mut().blocks.train_in_fp8(least_weights)
    }
}

impl Trunk {
    /// [`Encoder::forward`](Encoder::forward) of `embedded` tokens.
    fn forward(&self, embedded: Embedded, input: &Input, compute: Kind) -> Tokens {
        let Embedded { tokens, rotary } = embedded;
        let mut taps = Taps::after(&input.taps);
        let (turned, drop_path) = (rotary.as_ref(), &input.drop_path);
        let all = self.blocks.forward(tokens, turned, drop_path, compute, &mut taps);
        self.shape.tokens(all, input, taps.into_tokens())
    }

    /// [`Encoder::forward_recomputed`](Encoder::forward_recomputed) of `embedded` tokens.
    fn forward_recomputed<'a>(
        &'a self,
        embedded: Embedded,
        input: &'a Input,
        compute: Kind,
        blocks: usize,
    ) -> (Tokens, RestOfBackward<'a>) {
        let Embedded { tokens, rotary } = embedded;
        let mut taps = Taps::after(&input.taps);
        let drop_path = &input.drop_path;
        let turned = rotary.as_ref();
        let (all, kept) = self
            .blocks
            .forward_keeping_inputs(tokens, turned, drop_path, compute, blocks, &mut taps);
        let rest = move || self.blocks.backward(kept, rotary.as_ref(), drop_path, compute);
        (self.shape.tokens(all, input, taps.into_tokens()), Box::new(rest))
    }

    /// [`Encoder::forward_frozen`](Encoder::forward_frozen) of `embedded` tokens.
    ///
    /// # Errors
    /// A kernel of `junctions` fails.
    fn forward_frozen(
        &self,
        embedded: Embedded,
        input: &Input,
        compute: Kind,
        junctions: &Junctions,
    ) -> Result<Tokens> {
        let Embedded { tokens, rotary } = embedded;
        let mut taps = Taps::after(&input.taps);
        let turned = rotary.as_ref();
        let all = self.blocks.forward_frozen(tokens, turned, junctions, compute, &mut taps)?;
        Ok(self.shape.tokens(all, input, taps.into_tokens()))
    }
}
