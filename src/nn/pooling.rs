//! [`AttentionPooling`]: one vector of all tokens.

use tch::Tensor;

use super::activation::Activation;
use super::block::BlockShape;
use super::layers::{LayerNorm, Linear};
use super::parameters::{Init, Parameters};

/// Multi-head attention of one learned query to all tokens, and an MLP on a normalised residual branch behind it (Zhai
/// et al., "Scaling Vision Transformers", 2022).
pub struct AttentionPooling {
    /// The query `[1, 1, D]`.
    probe: Tensor,
    qkv: Linear,
    proj: Linear,
    norm: LayerNorm,
    fc1: Linear,
    activation: Activation,
    fc2: Linear,
    heads: i64,
}

impl AttentionPooling {
    /// One with the numbers of these blocks, whose parameters go under `name`.
    pub fn new(parameters: &mut Parameters, name: &str, shape: &BlockShape) -> Self {
        let (dim, hidden) = (shape.dim as i64, shape.hidden as i64);
        parameters.scoped(name, |parameters| Self {
            probe: parameters.tensor("probe", &[1, 1, dim], Init::Normal(0.02)),
            qkv: Linear::new(parameters, "attn.qkv", dim, 3 * dim),
            proj: Linear::new(parameters, "attn.proj", dim, dim),
            norm: LayerNorm::new(parameters, "norm", dim, shape.eps),
            fc1: Linear::new(parameters, "mlp.fc1", dim, hidden),
            activation: shape.activation,
            fc2: Linear::new(parameters, "mlp.fc2", hidden, dim),
            heads: shape.heads as i64,
        })
    }

    /// `[B, T, D]` to `[B, D]`, in the kind of the tokens.
    pub fn forward(&self, tokens: &Tensor) -> Tensor {
        let (batch, _, dim) = tokens.size3().expect("tokens are [B, T, D]");
        let of_heads =
            |part: &Tensor| part.reshape([batch, -1, self.heads, dim / self.heads]).transpose(1, 2);
        let probe = self.qkv.forward(&self.probe.to_kind(tokens.kind()));
        let query = probe.narrow(-1, 0, dim).expand([batch, 1, dim], false);
        let parts = self.qkv.forward(tokens).split(dim, -1);
        let [query, keys, values] = [&query, &parts[1], &parts[2]].map(of_heads);
        let mixed = Tensor::scaled_dot_product_attention(
            &query,
            &keys,
            &values,
            None::<&Tensor>,
            0.0,
            false,
            None,
            false,
        );
        let residual = self.proj.forward(&mixed.transpose(1, 2).reshape([batch, 1, dim]));
        let hidden = self.fc1.forward_activated(&self.norm.forward(&residual), self.activation);
        (residual + self.fc2.forward(&hidden)).squeeze_dim(1)
    }
}
