//! The Pixio encoder: a pre-norm vision transformer (Dosovitskiy et al., 2021) with several class
//! tokens.
//!
//! ```no_run
//! use distill::config::EncoderSize;
//! use distill::model::{Parameters, Storage, Vit, VitInput, patchify};
//! use tch::{Device, Kind, Tensor};
//!
//! let storage = Storage::Drawn { device: Device::Cpu, matrices: Kind::Float, seed: 0, lane: 0 };
//! let mut parameters = Parameters::new(storage);
//! let vit = Vit::new(&mut parameters, EncoderSize::named("pixio_vitb16").unwrap(), 16);
//! let images = Tensor::zeros([1, 3, 256, 256], (Kind::Float, Device::Cpu));
//! let tokens = vit.forward(&VitInput::whole(patchify(&images, 16), 16, 16), Kind::Float);
//! assert_eq!(tokens.size(), [1, 8 + 256, 768]);
//! ```

use tch::{Device, Kind, Tensor};

use super::mask::gather_tokens;
use super::parameters::{Init, Parameters};
use super::position::resize_positions;
use crate::config::EncoderSize;

/// A matrix product with bias, in the number format of its input.
pub(super) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    pub(super) fn new(parameters: &mut Parameters, name: &str, from: i64, to: i64) -> Self {
        parameters.scoped(name, |parameters| Self {
            weight: parameters.matrix("weight", &[to, from]),
            bias: parameters.tensor("bias", &[to], Init::Zeros),
        })
    }

    /// `[..., from]` to `[..., to]`. Float32 master weights are cast to the input's kind; the
    /// gradient flows back through the cast in float32.
    pub(super) fn forward(&self, input: &Tensor) -> Tensor {
        let kind = input.kind();
        let (weight, bias) = (self.weight.to_kind(kind), self.bias.to_kind(kind));
        if (kind, input.device()) == (Kind::Float, Device::Cpu) {
            return as_convolution(input, &weight, &bias);
        }
        input.linear(&weight, Some(bias))
    }
}

/// [`Linear`] over `[B, T, from]` as a convolution of 1 × 1.
///
/// libtorch gives float32 products on a CPU to MKL, which leaves AVX-512 alone unless the maker is
/// Intel, but convolutions to oneDNN, which uses what there is (docs/PERFORMANCE.md has figures).
fn as_convolution(input: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
    let image = input.unsqueeze(2).permute([0, 3, 1, 2]);
    let kernel = weight.unsqueeze(-1).unsqueeze(-1);
    image.conv2d(&kernel, Some(bias), 1, 0, 1, 1).permute([0, 2, 3, 1]).squeeze_dim(2)
}

/// LayerNorm, computed in float32 whatever comes in.
pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    pub(super) fn new(parameters: &mut Parameters, name: &str, dim: i64, eps: f64) -> Self {
        parameters.scoped(name, |parameters| Self {
            weight: parameters.tensor("weight", &[dim], Init::Ones),
            bias: parameters.tensor("bias", &[dim], Init::Zeros),
            eps,
        })
    }

    /// `[..., D]` to `[..., D]` in the kind of the input.
    pub(super) fn forward(&self, input: &Tensor) -> Tensor {
        let kind = input.kind();
        let dim = self.weight.size();
        input
            .to_kind(Kind::Float)
            .layer_norm(dim, Some(&self.weight), Some(&self.bias), self.eps, true)
            .to_kind(kind)
    }
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
        let (batch, tokens, dim) = input.size3().expect("tokens are [B, T, D]");
        let qkv = self
            .qkv
            .forward(input)
            .reshape([batch, tokens, 3, self.heads, dim / self.heads])
            .permute([2, 0, 3, 1, 4]);
        let (query, key, value) = (qkv.get(0), qkv.get(1), qkv.get(2));
        let mixed = Tensor::scaled_dot_product_attention(
            &query,
            &key,
            &value,
            None::<&Tensor>,
            0.0,
            false,
            None,
            false,
        );
        self.proj.forward(&mixed.transpose(1, 2).reshape([batch, tokens, dim]))
    }
}

/// A transformer block: attention and MLP, each on a normalised residual branch.
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Block {
    fn new(parameters: &mut Parameters, index: usize, size: &EncoderSize) -> Self {
        let (dim, hidden) = (size.dim as i64, (size.dim * size.mlp_ratio) as i64);
        parameters.scoped(&format!("blocks.{index}"), |parameters| Self {
            norm1: LayerNorm::new(parameters, "norm1", dim, 1e-6),
            attn: Attention::new(parameters, dim, size.heads as i64),
            norm2: LayerNorm::new(parameters, "norm2", dim, 1e-6),
            fc1: Linear::new(parameters, "mlp.fc1", dim, hidden),
            fc2: Linear::new(parameters, "mlp.fc2", hidden, dim),
        })
    }

    /// Adds both branches to `residual` `[B, T, D]` float32; matrix products run in `compute`.
    /// `scales` `[2, B]` multiplies the branches picture by picture (drop path).
    fn forward(&self, residual: &Tensor, compute: Kind, scales: Option<&Tensor>) -> Tensor {
        let add = |residual: &Tensor, branch: Tensor, index: i64| match scales {
            Some(scales) => residual + branch * scales.get(index).view([-1, 1, 1]),
            None => residual + branch,
        };
        let input = self.norm1.forward(residual).to_kind(compute);
        let residual = add(residual, self.attn.forward(&input), 0);
        let input = self.norm2.forward(&residual).to_kind(compute);
        let branch = self.fc2.forward(&self.fc1.forward(&input).gelu("none"));
        add(&residual, branch, 1)
    }
}

/// What an encoder looks at.
pub struct VitInput {
    /// Flattened patches `[B, rows · columns, 3·p·p]`, normalised.
    pub patches: Tensor,
    /// Rows of the patch grid.
    pub rows: i64,
    /// Columns of the patch grid.
    pub columns: i64,
    /// Patches that stay `[B, K]` (int64), or all of them.
    pub keep: Option<Tensor>,
    /// Drop path factors `[depth, 2, B]`, see [`super::drop_path_scales`].
    pub drop_path: Option<Tensor>,
}

impl VitInput {
    /// All patches and all paths.
    pub fn whole(patches: Tensor, rows: i64, columns: i64) -> Self {
        Self { patches, rows, columns, keep: None, drop_path: None }
    }
}

/// An encoder of any size. Fields are named as the published checkpoints' tensors.
pub struct Vit {
    cls_token: Tensor,
    pos_embed: Tensor,
    patch_embed: Linear,
    blocks: Vec<Block>,
    norm: LayerNorm,
    size: EncoderSize,
}

impl Vit {
    /// An encoder whose position embeddings fit a `grid` × `grid` patch grid.
    pub fn new(parameters: &mut Parameters, size: EncoderSize, grid: usize) -> Self {
        let (dim, class) = (size.dim as i64, size.class_tokens as i64);
        let tokens = class + (grid * grid) as i64;
        let patch = size.patch_size as i64;
        Self {
            cls_token: parameters.tensor("cls_token", &[1, class, dim], Init::Normal(0.02)),
            pos_embed: parameters.tensor(
                "pos_embed",
                &[1, tokens, dim],
                Init::TruncatedNormal(0.02),
            ),
            patch_embed: parameters.scoped("patch_embed.proj", |parameters| Linear {
                weight: parameters.matrix("weight", &[dim, 3, patch, patch]),
                bias: parameters.tensor("bias", &[dim], Init::Zeros),
            }),
            blocks: (0..size.depth).map(|index| Block::new(parameters, index, &size)).collect(),
            norm: LayerNorm::new(parameters, "norm", dim, 1e-6),
            size,
        }
    }

    /// The numbers it was built from.
    pub fn size(&self) -> &EncoderSize {
        &self.size
    }

    /// Class tokens and (kept) patch tokens with their positions: `[B, C+K, D]` float32.
    pub fn embed(&self, input: &VitInput, compute: Kind) -> Tensor {
        let (batch, dim) = (input.patches.size()[0], self.size.dim as i64);
        let class_tokens = self.size.class_tokens as i64;
        let positions = resize_positions(&self.pos_embed, class_tokens, input.rows, input.columns);
        let patch_positions = positions.narrow(1, class_tokens, input.rows * input.columns);
        let (patches, patch_positions) = match &input.keep {
            Some(keep) => (
                gather_tokens(&input.patches, keep),
                patch_positions.squeeze_dim(0).index_select(0, &keep.flatten(0, 1)).view([
                    batch,
                    keep.size()[1],
                    dim,
                ]),
            ),
            None => (input.patches.shallow_clone(), patch_positions),
        };
        let flat = Linear {
            weight: self.patch_embed.weight.view([dim, -1]),
            bias: self.patch_embed.bias.shallow_clone(),
        };
        let patches = flat.forward(&patches.to_kind(compute)) + patch_positions;
        let class = &self.cls_token + positions.narrow(1, 0, class_tokens);
        Tensor::cat(&[class.expand([batch, -1, -1], false), patches], 1)
    }

    /// All tokens after the last block, before the final LayerNorm: `[B, C+K, D]` float32.
    /// Matrix products run in `compute` (float32 or bf16).
    pub fn forward(&self, input: &VitInput, compute: Kind) -> Tensor {
        self.blocks(input, compute, |_, _| ())
    }

    /// [`Self::forward`] that shows the tokens after each block to `after_block`.
    pub fn blocks(
        &self,
        input: &VitInput,
        compute: Kind,
        mut after_block: impl FnMut(usize, &Tensor),
    ) -> Tensor {
        let mut residual = self.embed(input, compute);
        for (index, block) in self.blocks.iter().enumerate() {
            let scales = input.drop_path.as_ref().map(|scales| scales.get(index as i64));
            residual = block.forward(&residual, compute, scales.as_ref());
            after_block(index, &residual);
        }
        residual
    }

    /// The final LayerNorm, `[B, T, D]` float32.
    pub fn normalise(&self, tokens: &Tensor) -> Tensor {
        self.norm.forward(tokens)
    }
}
