//! A transformer block.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::drop_path::BranchPath;
use super::fp8::Operand;
use super::frozen::{FrozenFormat, Junctions};
use super::layers::{LayerNorm, Linear};
use super::parameters::Parameters;

/// The numbers of a transformer block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockShape {
    /// Width of every token.
    pub dim: usize,
    /// Attention heads, a divisor of `dim`.
    pub heads: usize,
    /// Width of the MLP's hidden layer.
    pub hidden: usize,
    /// Epsilon of both LayerNorms.
    pub eps: f64,
}

/// Multi-head self-attention over one fused product for queries, keys and values.
struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: i64,
}

impl Attention {
    fn new(parameters: &mut Parameters, dim: i64, heads: i64) -> Self {
        parameters.scoped("attn", |parameters| Self {
            qkv: Linear::new(parameters, "qkv", dim, 3 * dim),
            proj: Linear::new(parameters, "proj", dim, dim),
            heads,
        })
    }

    /// `[B, T, D]` to `[B, T, D]`.
    fn forward(&self, input: &Tensor) -> Tensor {
        self.proj.forward(&self.mix(&self.qkv.forward(input)))
    }

    /// Lets tokens attend to each other: `[B, T, 3 · D]` to `[B, T, D]`.
    fn mix(&self, qkv: &Tensor) -> Tensor {
        let (batch, tokens, of_all) = qkv.size3().expect("tokens are [B, T, 3 · D]");
        let dim = of_all / 3;
        // Split in the last dimension, so that the three gradients are joined by one copy.
        let parts = qkv.split(dim, -1);
        let of_heads = |part: &Tensor| {
            part.view([batch, tokens, self.heads, dim / self.heads]).transpose(1, 2)
        };
        let mixed = Tensor::scaled_dot_product_attention(
            &of_heads(&parts[0]),
            &of_heads(&parts[1]),
            &of_heads(&parts[2]),
            None::<&Tensor>,
            0.0,
            false,
            None,
            false,
        );
        mixed.transpose(1, 2).reshape([batch, tokens, dim])
    }
}

/// A transformer block: attention and MLP, each on a normalised residual branch.
pub(super) struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Block {
    /// A block whose parameters go under `name`.
    pub(super) fn new(parameters: &mut Parameters, name: &str, shape: &BlockShape) -> Self {
        let (dim, hidden, eps) = (shape.dim as i64, shape.hidden as i64, shape.eps);
        parameters.scoped(name, |parameters| Self {
            norm1: LayerNorm::new(parameters, "norm1", dim, eps),
            attn: Attention::new(parameters, dim, shape.heads as i64),
            norm2: LayerNorm::new(parameters, "norm2", dim, eps),
            fc1: Linear::new(parameters, "mlp.fc1", dim, hidden),
            fc2: Linear::new(parameters, "mlp.fc2", hidden, dim),
        })
    }

    /// Adds both branches to `residual` `[B, T, D]`, each along its path; matrix products run in
    /// `compute`. The residual is overwritten where that can be, unless it
    /// is kept.
    pub(super) fn forward(
        &self,
        residual: Tensor,
        is_kept: bool,
        compute: Kind,
        paths: [BranchPath; 2],
    ) -> Tensor {
        let [attention, mlp] = paths;
        let residual = attention.add(residual, !is_kept, |tokens| {
            self.attn.forward(&self.norm1.forward(tokens).to_kind(compute))
        });
        mlp.add(residual, true, |tokens| self.mlp(self.norm2.forward(tokens).to_kind(compute)))
    }

    /// The MLP branch of normalised tokens `[B, T, D]`.
    fn mlp(&self, normalised: Tensor) -> Tensor {
        let hidden = self.fc1.forward_gelu(&normalised);
        // The widest layer follows: without gradients, this memory is free for it.
        drop(normalised);
        self.fc2.forward(&hidden)
    }

    /// The attention branch of a block that is not trained: of `residual` `[B, T, D]`, to which the block's
    /// before is added first.
    ///
    /// # Errors
    /// A kernel of `junctions` fails.
    pub(super) fn frozen_attention(
        &self,
        residual: &mut Tensor,
        before: Option<Tensor>,
        junctions: &Junctions,
        compute: Kind,
    ) -> Result<Tensor> {
        let Attention { qkv, proj, .. } = &self.attn;
        let normalised = junctions.add_norm(residual, before, &self.norm1, (compute, qkv))?;
        let mixed = self.attn.mix(&qkv.product(normalised));
        Ok(proj.product(junctions.mixed(mixed, proj)?))
    }

    /// Its MLP branch, of `residual` to which the `attention` is added first.
    ///
    /// # Errors
    /// A kernel of `junctions` fails.
    pub(super) fn frozen_mlp(
        &self,
        residual: &mut Tensor,
        attention: Tensor,
        junctions: &Junctions,
        compute: Kind,
    ) -> Result<Tensor> {
        let (fc1, next) = (&self.fc1, (compute, &self.fc1));
        let normalised = junctions.add_norm(residual, Some(attention), &self.norm2, next)?;
        let hidden: Operand = junctions.gelu(fc1, normalised, &self.fc2)?;
        Ok(self.fc2.product(hidden))
    }

    /// Keeps every parameter in the format that it is used in.
    pub(super) fn freeze(&mut self, format: FrozenFormat) {
        for linear in [&mut self.attn.qkv, &mut self.attn.proj, &mut self.fc1, &mut self.fc2] {
            match format.fp8 {
                true => linear.freeze_in_fp8(),
                false => linear.freeze(format.compute),
            }
        }
        self.norm1.freeze(format.residual);
        self.norm2.freeze(format.residual);
    }
}
