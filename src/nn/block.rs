//! A transformer block.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::activation::Activation;
use super::biases::{Biases, QkvBiases};
use super::drop_path::BranchPath;
use super::fp8::Operand;
use super::frozen::{FrozenFormat, Junctions};
use super::layers::{LayerNorm, Linear};
use super::parameters::{Init, Parameters};
use super::rotary::Rotary;
use super::trained::{Junction, Stream, enter, leave, mlp};

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
    /// Whether each channel of a branch is multiplied by a number of its own (LayerScale; Touvron et al., 2021).
    pub layer_scale: bool,
    /// Whether the MLP's first product is twice `hidden` wide, and its first half gates the second (SwiGLU;
    /// Shazeer, 2020).
    pub gated: bool,
    /// What stands between the products of an MLP that is not gated.
    pub activation: Activation,
    /// Which products add a bias.
    pub biases: Biases,
    /// Whether queries, keys and values have biases of their own, any of which may be missing, and not one for all.
    pub biases_apart: bool,
}

impl BlockShape {
    /// A plain block with a hidden layer of four times the width.
    pub fn new(dim: usize, heads: usize, eps: f64) -> Self {
        Self {
            dim,
            heads,
            hidden: 4 * dim,
            eps,
            layer_scale: false,
            gated: false,
            activation: Activation::Gelu,
            biases: Biases::ALL,
            biases_apart: false,
        }
    }
}

/// Multi-head self-attention over one fused product for queries, keys and values.
struct Attention {
    qkv: Linear,
    /// What the product adds, where that is no parameter of its own.
    biases: Option<QkvBiases>,
    proj: Linear,
    heads: i64,
}

impl Attention {
    fn new(parameters: &mut Parameters, shape: &BlockShape) -> Self {
        let (dim, biases) = (shape.dim as i64, &shape.biases);
        let (of_qkv, of_proj) = ((dim, 3 * dim), (dim, dim));
        parameters.scoped("attn", |parameters| Self {
            qkv: Linear::with_bias(parameters, "qkv", of_qkv, !shape.biases_apart),
            biases: shape.biases_apart.then(|| QkvBiases::new(parameters, dim, biases)),
            proj: Linear::with_bias(parameters, "proj", of_proj, biases.proj),
            heads: shape.heads as i64,
        })
    }

    /// `[B, T, D]` to `[B, T, D]`.
    fn forward(&self, input: &Tensor, rotary: Option<&Rotary>) -> Tensor {
        self.proj.forward(&self.mix(&self.queries_keys_values(input), rotary))
    }

    /// `[B, T, D]` to `[B, T, 3 · D]`.
    fn queries_keys_values(&self, input: &Tensor) -> Tensor {
        match &self.biases {
            Some(biases) => self.qkv.forward_adding(input, &biases.joined()),
            None => self.qkv.forward(input),
        }
    }

    /// The same of a block that is not trained.
    fn frozen_queries_keys_values(&self, input: Operand) -> Tensor {
        match (input, &self.biases) {
            (Operand::Numbers(numbers), Some(_)) => self.queries_keys_values(&numbers),
            (input, _) => self.qkv.product(input),
        }
    }

    /// Lets tokens attend to each other: `[B, T, 3 · D]` to `[B, T, D]`.
    fn mix(&self, qkv: &Tensor, rotary: Option<&Rotary>) -> Tensor {
        let (batch, tokens, of_all) = qkv.size3().expect("tokens are [B, T, 3 · D]");
        let dim = of_all / 3;
        let of_heads = |part: &Tensor| part.view([batch, tokens, -1, dim / self.heads]);
        // Split in the last dimension, so that the gradients are joined by one copy.
        let heads = match rotary {
            None => {
                let parts = qkv.split(dim, -1);
                [0, 1, 2].map(|part| of_heads(&parts[part]))
            }
            Some(rotary) => {
                let parts = qkv.split_with_sizes([2 * dim, dim], -1);
                let turned = rotary.turned(&of_heads(&parts[0]));
                let of_turned = |first| turned.narrow(2, first, self.heads);
                [of_turned(0), of_turned(self.heads), of_heads(&parts[1])]
            }
        };
        let [queries, keys, values] = heads.map(|part| part.transpose(1, 2));
        let mixed = Tensor::scaled_dot_product_attention(
            &queries,
            &keys,
            &values,
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
    ls1: LayerScale,
    norm2: LayerNorm,
    mlp: Mlp,
    ls2: LayerScale,
}

/// What a branch's channels are multiplied by, if anything.
struct LayerScale(Option<Tensor>);

impl LayerScale {
    fn new(parameters: &mut Parameters, name: &str, shape: &BlockShape) -> Self {
        Self(shape.layer_scale.then(|| {
            let dim = [shape.dim as i64];
            parameters.scoped(name, |parameters| parameters.tensor("gamma", &dim, Init::Ones))
        }))
    }

    fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// `branch` `[B, T, D]`, scaled.
    fn scaled(&self, branch: Tensor) -> Tensor {
        match &self.0 {
            Some(gamma) => &branch * gamma.to_kind(branch.kind()),
            None => branch,
        }
    }

    /// Lets `last`, which gives the branch, do the scaling from now on. For weights that stay as they are.
    fn fold_into(&mut self, last: &mut Linear) {
        if let Some(gamma) = self.0.take() {
            last.scale_outputs(&gamma);
        }
    }
}

/// The MLP of a block.
enum Mlp {
    Plain {
        fc1: Linear,
        activation: Activation,
        fc2: Linear,
    },
    /// `w3(silu(a) · b)`, a and b being the halves of `w12`.
    Gated {
        w12: Linear,
        w3: Linear,
    },
}

impl Mlp {
    fn new(parameters: &mut Parameters, shape: &BlockShape) -> Self {
        let (dim, hidden) = (shape.dim as i64, shape.hidden as i64);
        let mut linear =
            |name, from, to| Linear::with_bias(parameters, name, (from, to), shape.biases.mlp);
        match shape.gated {
            false => Self::Plain {
                fc1: linear("mlp.fc1", dim, hidden),
                activation: shape.activation,
                fc2: linear("mlp.fc2", hidden, dim),
            },
            true => Self::Gated {
                w12: linear("mlp.w12", dim, 2 * hidden),
                w3: linear("mlp.w3", hidden, dim),
            },
        }
    }

    /// The first and the last product.
    fn products(&mut self) -> [&mut Linear; 2] {
        match self {
            Self::Plain { fc1, fc2, .. } => [fc1, fc2],
            Self::Gated { w12, w3 } => [w12, w3],
        }
    }

    fn last(&self) -> &Linear {
        match self {
            Self::Plain { fc2, .. } => fc2,
            Self::Gated { w3, .. } => w3,
        }
    }

    fn first(&self) -> &Linear {
        match self {
            Self::Plain { fc1, .. } => fc1,
            Self::Gated { w12, .. } => w12,
        }
    }

    /// `[B, T, D]` to `[B, T, D]`.
    fn forward(&self, normalised: Tensor) -> Tensor {
        match self {
            Self::Plain { fc1, activation, fc2 } => {
                let hidden = fc1.forward_activated(&normalised, *activation);
                // The widest layer follows: without gradients, this memory is free for it.
                drop(normalised);
                fc2.forward(&hidden)
            }
            Self::Gated { w12, w3 } => w3.forward(&gated(&w12.forward(&normalised))),
        }
    }

    /// The same of a block that is not trained.
    fn frozen(&self, normalised: Operand, junctions: &Junctions) -> Result<Tensor> {
        match self {
            Self::Plain { fc1, activation, fc2 } => {
                let hidden = junctions.activated((fc1, *activation), normalised, fc2)?;
                Ok(fc2.product(hidden))
            }
            Self::Gated { w12, w3 } => {
                let hidden = gated(&w12.product(normalised));
                Ok(w3.product(junctions.operand(hidden, w3)?))
            }
        }
    }
}

/// The second half of the last dimension, gated by the first.
fn gated(both: &Tensor) -> Tensor {
    let halves = both.chunk(2, -1);
    halves[0].silu() * &halves[1]
}

impl Block {
    /// A block whose parameters go under `name`.
    pub(super) fn new(parameters: &mut Parameters, name: &str, shape: &BlockShape) -> Self {
        let (dim, eps) = (shape.dim as i64, shape.eps);
        parameters.scoped(name, |parameters| Self {
            norm1: LayerNorm::new(parameters, "norm1", dim, eps),
            attn: Attention::new(parameters, shape),
            ls1: LayerScale::new(parameters, "ls1", shape),
            norm2: LayerNorm::new(parameters, "norm2", dim, eps),
            mlp: Mlp::new(parameters, shape),
            ls2: LayerScale::new(parameters, "ls2", shape),
        })
    }

    /// Adds both branches to `residual` `[B, T, D]`, each along its path; matrix products run in
    /// `compute`. The residual is overwritten where that can be, unless it
    /// is kept. Queries and keys are turned by `rotary`.
    pub(super) fn forward(
        &self,
        residual: Tensor,
        is_kept: bool,
        rotary: Option<&Rotary>,
        compute: Kind,
        paths: [BranchPath; 2],
    ) -> Tensor {
        let [attention, mlp] = paths;
        let rotary = rotary.map(|rotary| rotary.of_images(attention.images()));
        let residual = attention.add(residual, !is_kept, |tokens| {
            let normalised = self.norm1.forward(tokens).to_kind(compute);
            self.ls1.scaled(self.attn.forward(&normalised, rotary.as_ref()))
        });
        mlp.add(residual, true, |tokens| {
            self.ls2.scaled(self.mlp.forward(self.norm2.forward(tokens).to_kind(compute)))
        })
    }

    /// Its products, by their names.
    pub(super) fn products(&self) -> [(&'static str, &Linear); 4] {
        let [first, last] = match self.mlp {
            Mlp::Plain { .. } => ["fc1", "fc2"],
            Mlp::Gated { .. } => ["w12", "w3"],
        };
        [
            ("qkv", &self.attn.qkv),
            ("proj", &self.attn.proj),
            (first, self.mlp.first()),
            (last, self.mlp.last()),
        ]
    }

    /// Whether its parameters want gradients.
    pub(super) fn is_trained(&self) -> bool {
        self.norm1.weight.requires_grad()
    }

    /// [`Self::forward`] of a block that is trained: both branches, of which the second is still to be added.
    pub(super) fn trained(
        &self,
        stream: Stream,
        junction: Junction,
        rotary: Option<&Rotary>,
        [attention, mlp_path]: [BranchPath; 2],
    ) -> Stream {
        let [mut qkv, proj] = [&self.attn.qkv, &self.attn.proj].map(Linear::parameters);
        let joined = self.attn.biases.as_ref().map(QkvBiases::joined);
        if let Some(joined) = &joined {
            qkv[1] = joined;
        }
        let rotary = rotary.map(|rotary| rotary.of_images(attention.images()));
        let (product, stream) = enter(junction, stream, &self.norm1, qkv, attention.shared());
        let mixed = self.attn.mix(&product, rotary.as_ref());
        let own_bias = self.ls1.is_there();
        let branch = self.ls1.scaled(leave(junction, &mixed, proj, own_bias));
        let stream = stream.with(branch, (!own_bias).then_some(proj[1]), attention);

        let (next, own_bias) = (mlp_path.shared(), self.ls2.is_there());
        let [first, last] = [self.mlp.first(), self.mlp.last()].map(Linear::parameters);
        let (branch, stream) = match self.mlp {
            Mlp::Plain { activation, .. } => {
                let products = ([first, last], activation);
                mlp(junction, stream, &self.norm2, products, next, own_bias)
            }
            Mlp::Gated { .. } => {
                let (both, stream) = enter(junction, stream, &self.norm2, first, next);
                (leave(junction, &gated(&both), last, own_bias), stream)
            }
        };
        let branch = self.ls2.scaled(branch);
        stream.with(branch, (!own_bias).then_some(last[1]), mlp_path)
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
        rotary: Option<&Rotary>,
        junctions: &Junctions,
        compute: Kind,
    ) -> Result<Tensor> {
        let Attention { qkv, proj, .. } = &self.attn;
        let normalised = junctions.add_norm(residual, before, &self.norm1, (compute, qkv))?;
        let mixed = self.attn.mix(&self.attn.frozen_queries_keys_values(normalised), rotary);
        Ok(self.ls1.scaled(proj.product(junctions.operand(mixed, proj)?)))
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
        let next = (compute, self.mlp.first());
        let normalised = junctions.add_norm(residual, Some(attention), &self.norm2, next)?;
        Ok(self.ls2.scaled(self.mlp.frozen(normalised, junctions)?))
    }

    /// Keeps every parameter in the format that it is used in.
    pub(super) fn freeze(&mut self, format: FrozenFormat) {
        let [first, last] = self.mlp.products();
        self.ls1.fold_into(&mut self.attn.proj);
        self.ls2.fold_into(last);
        if let Some(biases) = self.attn.biases.take() {
            self.attn.qkv.set_bias(biases.joined());
        }
        for linear in [&mut self.attn.qkv, &mut self.attn.proj, first, last] {
            match format.fp8 {
                true => linear.freeze_in_fp8(),
                false => linear.freeze(format.compute),
            }
        }
        self.norm1.freeze(format.residual);
        self.norm2.freeze(format.residual);
    }
}
