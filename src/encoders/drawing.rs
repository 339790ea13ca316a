//! [`Drawing`]: a vision transformer drawn as a graph for other runtimes, part by part.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use crate::nn::Rotary;
use crate::onnx::{Graph, Value};

/// What images are called in a graph, as in `transformers`.
const IMAGES: &str = "pixel_values";

/// A graph under construction, with the parameters of the encoder that it is of.
pub struct Drawing {
    pub(super) graph: Graph,
    parameters: BTreeMap<String, Tensor>,
    images: Value,
    dim: i64,
    grid_size: i64,
    patch_size: i64,
}

/// What a drawn encoder gives.
pub struct Drawn {
    /// All tokens after the final norm, `[B, P+N, D]`.
    pub tokens: Value,
    /// One vector an image, `[B, D]`, as [`Encoder::pooled`](super::Encoder::pooled) has it.
    pub pooled: Value,
}

/// What a stack of blocks is drawn from beside its parameters.
pub(super) struct DrawnBlocks<'a> {
    pub depth: usize,
    pub heads: usize,
    /// Epsilon of every LayerNorm.
    pub eps: f64,
    /// By what queries and keys are turned.
    pub rotary: Option<&'a Rotary>,
}

impl Drawing {
    /// Of an encoder of width `dim` with these parameters, for images of `grid_size` × `grid_size` patches of
    /// `patch_size` pixels.
    pub(super) fn new(
        parameters: BTreeMap<String, Tensor>,
        dim: usize,
        [grid_size, patch_size]: [usize; 2],
    ) -> Self {
        let (grid_size, patch_size) = (grid_size as i64, patch_size as i64);
        let mut graph = Graph::default();
        let side = grid_size * patch_size;
        let images = graph.input(IMAGES, &[3, side, side]);
        Self { graph, parameters, images, dim: dim as i64, grid_size, patch_size }
    }

    /// Patches along each side of an image.
    pub(super) fn grid_size(&self) -> i64 {
        self.grid_size
    }

    /// The parameter of this name, float32.
    ///
    /// # Errors
    /// The encoder has none.
    pub(super) fn parameter(&self, name: &str) -> Result<Tensor> {
        let found = self.parameters.get(name);
        let found = found.with_context(|| format!("the encoder has no parameter `{name}`"))?;
        Ok(found.to_kind(Kind::Float))
    }

    fn has(&self, name: &str) -> bool {
        self.parameters.contains_key(name)
    }

    fn weight(&mut self, name: &str) -> Result<Value> {
        let tensor = self.parameter(name)?;
        Ok(self.graph.weight(name, &tensor))
    }

    /// The images' patches as tokens without positions, `[B, N, D]`.
    pub(super) fn patches(&mut self) -> Result<Value> {
        let kernel = self.weight("patch_embed.proj.weight")?;
        let bias = self.weight("patch_embed.proj.bias")?;
        let images = self.images.clone();
        let squares = self.graph.convolve(&images, &kernel, &bias, self.patch_size);
        let patches = self.grid_size * self.grid_size;
        let flat = self.graph.reshape(&squares, &[0, self.dim, patches]);
        Ok(self.graph.permute(&flat, &[0, 2, 1]))
    }

    /// `patches` to which the `positions` `[1, N, D]` are added, behind the same `prefix` `[1, P, D]` for all images.
    pub(super) fn behind(
        &mut self,
        prefix: &Tensor,
        patches: &Value,
        positions: Option<&Tensor>,
    ) -> Value {
        let patches = match positions {
            Some(positions) => {
                let positions = self.graph.weight("positions", positions);
                self.graph.add(patches, &positions)
            }
            None => patches.clone(),
        };
        let count = prefix.size()[1];
        let prefix = self.graph.weight("prefix", prefix);
        let of_all = self.graph.for_each(&prefix, &[count, self.dim], &patches);
        self.graph.join(&[&of_all, &patches], 1)
    }

    /// Class tokens `cls_token` and patches, both with the positions `pos_embed` `[1, C+N, D]`.
    ///
    /// # Errors
    /// The encoder has no such parameters.
    pub(super) fn class_and_patches(&mut self, class_tokens: usize) -> Result<Value> {
        let (class_tokens, positions) = (class_tokens as i64, self.parameter("pos_embed")?);
        let class = self.parameter("cls_token")? + positions.narrow(1, 0, class_tokens);
        let of_patches = positions.narrow(1, class_tokens, self.grid_size * self.grid_size);
        let patches = self.patches()?;
        Ok(self.behind(&class, &patches, Some(&of_patches)))
    }

    /// LayerNorm by the parameters under `name`.
    pub(super) fn norm(&mut self, name: &str, tokens: &Value, eps: f64) -> Result<Value> {
        let weight = self.weight(&format!("{name}.weight"))?;
        let bias = self.weight(&format!("{name}.bias"))?;
        Ok(self.graph.layer_norm(tokens, &weight, &bias, eps))
    }

    /// The tokens behind the blocks, before the final norm.
    ///
    /// # Errors
    /// The encoder lacks a parameter of a block.
    pub(super) fn blocks(&mut self, mut tokens: Value, shape: &DrawnBlocks<'_>) -> Result<Value> {
        let turns = shape.rotary.map(|rotary| {
            // [1, T, 1, d] to what queries and keys are laid out as.
            let [cos, sin] = rotary.factors().map(|table| table.permute([0, 2, 1, 3]));
            [self.graph.weight("rotary_cos", &cos), self.graph.weight("rotary_sin", &sin)]
        });
        for index in 0..shape.depth {
            let block = format!("blocks.{index}");
            let normalised = self.norm(&format!("{block}.norm1"), &tokens, shape.eps)?;
            let branch = self.attention(&block, &normalised, shape.heads, turns.as_ref())?;
            tokens = self.graph.add(&tokens, &branch);
            let normalised = self.norm(&format!("{block}.norm2"), &tokens, shape.eps)?;
            let branch = self.mlp(&block, &normalised)?;
            tokens = self.graph.add(&tokens, &branch);
        }
        Ok(tokens)
    }

    fn attention(
        &mut self,
        block: &str,
        tokens: &Value,
        heads: usize,
        turns: Option<&[Value; 2]>,
    ) -> Result<Value> {
        let (dim, heads) = (self.dim, heads as i64);
        let of_head = dim / heads;
        let qkv =
            self.linear(&format!("{block}.attn.qkv"), tokens, None, self.own_biases(block)?)?;
        let parts = self.graph.split(&qkv, &[dim, dim, dim], 2);
        let by_heads = |drawing: &mut Self, part: &Value| {
            let apart = drawing.graph.reshape(part, &[0, 0, heads, of_head]);
            drawing.graph.permute(&apart, &[0, 2, 1, 3])
        };
        let [mut queries, mut keys, values] = [0, 1, 2].map(|part| by_heads(self, &parts[part]));
        if let Some(turns) = turns {
            queries = self.turned(&queries, turns, of_head);
            keys = self.turned(&keys, turns, of_head);
        }
        let keys = self.graph.permute(&keys, &[0, 1, 3, 2]);
        let queries = self.graph.scale(&queries, 1.0 / (of_head as f64).sqrt());
        let likeness = self.graph.product(&queries, &keys);
        let shares = self.graph.softmax(&likeness);
        let mixed = self.graph.product(&shares, &values);
        let mixed = self.graph.permute(&mixed, &[0, 2, 1, 3]);
        let mixed = self.graph.reshape(&mixed, &[0, 0, dim]);
        self.linear(&format!("{block}.attn.proj"), &mixed, Some(&format!("{block}.ls1")), None)
    }

    /// What queries, keys and values add where each has a bias of its own, or none.
    fn own_biases(&self, block: &str) -> Result<Option<Tensor>> {
        let names = ["q", "k", "v"].map(|part| format!("{block}.attn.{part}_bias"));
        if !names.iter().any(|name| self.has(name)) {
            return Ok(None);
        }
        let parts = names.iter().map(|name| match self.has(name) {
            true => self.parameter(name),
            false => Ok(Tensor::zeros([self.dim], (Kind::Float, tch::Device::Cpu))),
        });
        Ok(Some(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)))
    }

    /// Queries or keys `[B, heads, T, d]`, turned: see [`Rotary`].
    fn turned(&mut self, heads: &Value, [cos, sin]: &[Value; 2], of_head: i64) -> Value {
        let halves = self.graph.split(heads, &[of_head / 2, of_head / 2], 3);
        let exchanged = self.graph.join(&[&halves[1], &halves[0]], 3);
        let (straight, across) =
            (self.graph.multiply(heads, cos), self.graph.multiply(&exchanged, sin));
        self.graph.add(&straight, &across)
    }

    fn mlp(&mut self, block: &str, tokens: &Value) -> Result<Value> {
        let scale = format!("{block}.ls2");
        if self.has(&format!("{block}.mlp.fc1.weight")) {
            let hidden = self.linear(&format!("{block}.mlp.fc1"), tokens, None, None)?;
            let hidden = self.graph.gelu(&hidden);
            return self.linear(&format!("{block}.mlp.fc2"), &hidden, Some(&scale), None);
        }
        let both = self.linear(&format!("{block}.mlp.w12"), tokens, None, None)?;
        let hidden = self.parameter(&format!("{block}.mlp.w3.weight"))?.size()[1];
        let halves = self.graph.split(&both, &[hidden, hidden], 2);
        let gate = self.graph.silu(&halves[0]);
        let hidden = self.graph.multiply(&gate, &halves[1]);
        self.linear(&format!("{block}.mlp.w3"), &hidden, Some(&scale), None)
    }

    /// The product by the parameters under `name`, with a `bias` of another place if there is one; its outputs are
    /// scaled by the LayerScale `scale` where the encoder has that.
    fn linear(
        &mut self,
        name: &str,
        input: &Value,
        scale: Option<&str>,
        bias: Option<Tensor>,
    ) -> Result<Value> {
        let (weight_name, bias_name) = (format!("{name}.weight"), format!("{name}.bias"));
        let weight = self.parameter(&weight_name)?;
        let bias = match bias {
            None if self.has(&bias_name) => Some(self.parameter(&bias_name)?),
            other => other,
        };
        let gamma = scale.map(|scale| format!("{scale}.gamma")).filter(|gamma| self.has(gamma));
        let (weight, bias) = match gamma {
            Some(gamma) => {
                let gamma = self.parameter(&gamma)?;
                (weight * gamma.unsqueeze(-1), bias.map(|bias| bias * &gamma))
            }
            None => (weight, bias),
        };
        let weight = self.graph.weight(&weight_name, &weight.tr());
        let product = self.graph.product(input, &weight);
        Ok(match bias {
            Some(bias) => {
                let bias = self.graph.weight(&bias_name, &bias);
                self.graph.add(&product, &bias)
            }
            None => product,
        })
    }

    /// The first of the tokens, `[B, D]`.
    pub(super) fn first(&mut self, tokens: &Value, of_all: usize) -> Value {
        let rest = of_all as i64 + self.grid_size * self.grid_size - 1;
        let parts = self.graph.split(tokens, &[1, rest], 1);
        self.graph.reshape(&parts[0], &[0, self.dim])
    }

    /// The mean of the first `count` tokens, which are all before those of the patches: `[B, D]`.
    pub(super) fn mean_of_first(&mut self, tokens: &Value, count: usize) -> Value {
        let parts = self.graph.split(tokens, &[count as i64, self.grid_size * self.grid_size], 1);
        self.graph.mean_of_tokens(&parts[0])
    }
}
