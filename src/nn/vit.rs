//! The Pixio encoder: a pre-norm vision transformer (Dosovitskiy et al., 2021) with several class
//! tokens.
//!
//! ```no_run
//! use distill::config::EncoderSize;
//! use distill::nn::{Parameters, Storage, Vit, VitInput, patchify};
//! use tch::{Device, Kind, Tensor};
//!
//! let storage = Storage::Drawn { device: Device::Cpu, matrices: Kind::Float, seed: 0, rng_stream: 0 };
//! let mut parameters = Parameters::new(storage);
//! let vit = Vit::new(&mut parameters, EncoderSize::named("pixio_vitb16").unwrap(), 16);
//! let images = Tensor::zeros([1, 3, 256, 256], (Kind::Float, Device::Cpu));
//! let tokens = vit.forward(&VitInput::whole(patchify(&images, 16), 16, 16), Kind::Float);
//! assert_eq!(tokens.size(), [1, 8 + 256, 768]);
//! ```

use tch::{Kind, Tensor};

use super::block::Block;
use super::drop_path::DropPath;
use super::layers::{LayerNorm, Linear};
use super::mask::gather_tokens;
use super::parameters::{Init, Parameters};
use super::position::resize_positions;
use crate::config::EncoderSize;

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
    /// Which branches are left out for which images.
    pub drop_path: DropPath,
}

impl VitInput {
    /// All patches and all paths.
    pub fn whole(patches: Tensor, rows: i64, columns: i64) -> Self {
        Self { patches, rows, columns, keep: None, drop_path: DropPath::None }
    }
}

/// The number formats of an encoder that is not trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrozenFormat {
    /// Matrix products run in this kind, float32 or bf16, and their weights are kept in it.
    pub compute: Kind,
    /// Tokens between blocks: bf16 halves the memory that additions and LayerNorms move, and rounds
    /// after each branch.
    pub residual: Kind,
    /// The blocks' matrices, and what they are multiplied with, are rounded to FP8 where `compute`
    /// is bf16.
    pub fp8: bool,
}

/// An encoder of any size. Fields are named as the published checkpoints' tensors.
pub struct Vit {
    cls_token: Tensor,
    pos_embed: Tensor,
    patch_embed: Linear,
    pub(super) blocks: Vec<Block>,
    norm: LayerNorm,
    size: EncoderSize,
}

impl Vit {
    /// An encoder whose position embeddings fit a `grid_size` × `grid_size` patch grid.
    pub fn new(parameters: &mut Parameters, size: EncoderSize, grid_size: usize) -> Self {
        let (dim, class) = (size.dim as i64, size.class_tokens as i64);
        let tokens = class + (grid_size * grid_size) as i64;
        let patch = size.patch_size as i64;
        Self {
            cls_token: parameters.tensor("cls_token", &[1, class, dim], Init::Normal(0.02)),
            pos_embed: parameters.tensor(
                "pos_embed",
                &[1, tokens, dim],
                Init::TruncatedNormal(0.02),
            ),
            patch_embed: Linear::shaped(parameters, "patch_embed.proj", &[dim, 3, patch, patch]),
            blocks: (0..size.depth)
                .map(|index| Block::named(parameters, &format!("blocks.{index}"), &size))
                .collect(),
            norm: LayerNorm::new(parameters, "norm", dim, 1e-6),
            size,
        }
    }

    /// The numbers it was built from.
    pub fn size(&self) -> &EncoderSize {
        &self.size
    }

    /// Prepares an encoder that stays as it is for many passes over `grid_size` × `grid_size` patches: every
    /// parameter is kept in the format that it is used in, and positions fit that grid.
    pub fn freeze(&mut self, format: FrozenFormat, grid_size: i64) {
        let FrozenFormat { compute, residual, .. } = format;
        let class_tokens = self.size.class_tokens as i64;
        let positions = resize_positions(&self.pos_embed, class_tokens, grid_size, grid_size);
        self.pos_embed = positions.to_kind(residual);
        self.cls_token = self.cls_token.to_kind(residual);
        self.patch_embed.freeze(compute);
        self.blocks.iter_mut().for_each(|block| block.freeze(format));
        self.norm.freeze(residual);
    }

    /// Class tokens and (kept) patch tokens with their positions: `[B, C+K, D]`, float32 unless
    /// frozen otherwise.
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
        let patches = self.patch_embed.forward(&patches.to_kind(compute)) + patch_positions;
        let class = &self.cls_token + positions.narrow(1, 0, class_tokens);
        Tensor::cat(&[class.expand([batch, -1, -1], false), patches], 1)
    }

    /// All tokens after the last block, before the final LayerNorm: `[B, C+K, D]`, float32 unless
    /// frozen otherwise. Matrix products run in `compute` (float32 or bf16).
    pub fn forward(&self, input: &VitInput, compute: Kind) -> Tensor {
        self.blocks(input, compute, |_, _| ())
    }

    /// [`Self::forward`] that shows the tokens after each block to `after_block`; the next block
    /// may overwrite them.
    pub fn blocks(
        &self,
        input: &VitInput,
        compute: Kind,
        after_block: impl FnMut(usize, &Tensor),
    ) -> Tensor {
        let first = (0, self.embed(input, compute));
        self.blocks_from(first, false, input, compute, after_block)
    }

    /// [`Self::blocks`] from a block on, given its input, which may be overwritten unless it is
    /// kept.
    pub(super) fn blocks_from(
        &self,
        (first, mut residual): (usize, Tensor),
        is_kept: bool,
        input: &VitInput,
        compute: Kind,
        mut after_block: impl FnMut(usize, &Tensor),
    ) -> Tensor {
        for index in first..self.blocks.len() {
            let is_kept = is_kept && index == first;
            residual = self.block(index, residual, is_kept, input, compute);
            after_block(index, &residual);
        }
        residual
    }

    /// One block.
    pub(super) fn block(
        &self,
        index: usize,
        residual: Tensor,
        is_kept: bool,
        input: &VitInput,
        compute: Kind,
    ) -> Tensor {
        let paths = input.drop_path.of_block(index);
        self.blocks[index].forward(residual, is_kept, compute, paths)
    }

    /// The final LayerNorm, `[B, T, D]` to `[B, T, D]` of the same kind.
    pub fn normalise(&self, tokens: &Tensor) -> Tensor {
        self.norm.forward(tokens)
    }
}
