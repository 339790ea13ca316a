//! [`Encoder`]: what every vision encoder can be asked.

use anyhow::Result;
use tch::{Kind, Tensor};

use super::tokens::Tokens;
use crate::nn::{DropPath, FrozenFormat, Junctions};

/// A vision encoder: normalised images in, tokens out.
///
/// It cuts the images into patches itself, and leaves out those that it is not to see. Its
/// parameters are made through [`crate::nn::Parameters`], which lists them by name.
pub trait Encoder {
    /// What others have to know of its tokens.
    fn shape(&self) -> EncoderShape;

    /// All tokens after the last block, before the final norm: float32 unless frozen otherwise.
    /// Matrix products run in `compute` (float32 or bf16).
    fn forward(&self, input: &Input, compute: Kind) -> Tokens;

    /// [`Self::forward`] of which the first `blocks` blocks keep only their inputs, and are computed
    /// again in the backward pass (Chen et al., 2016). The backward pass of a loss ends at them; what
    /// is returned beside the tokens then takes the gradients the rest of the way, those of taps too.
    fn forward_recomputed<'a>(
        &'a self,
        input: &'a Input,
        compute: Kind,
        blocks: usize,
    ) -> (Tokens, RestOfBackward<'a>);

    /// [`Self::forward`] of whole images by an encoder that is not trained: no gradient, and
    /// additions and norms as `junctions` has them, where the encoder has such.
    ///
    /// # Errors
    /// A kernel of `junctions` fails.
    fn forward_frozen(&self, input: &Input, compute: Kind, junctions: &Junctions)
    -> Result<Tokens>;

    /// The final norm, in the kind of the tokens, which stay as they are where the family has none. Taps stay too.
    fn normalise(&self, tokens: Tokens) -> Tokens;

    /// One vector an image, of tokens after the last block before the final norm: `[B, D]` float32.
    fn pooled(&self, tokens: &Tokens) -> Tensor;

    /// Freezes the encoder, for many passes over `grid_size` × `grid_size`
    /// patches: every parameter is kept in the format that it is used in, and positions fit that
    /// grid.
    fn freeze(&mut self, format: FrozenFormat, grid_size: i64);

    /// From here on the blocks' products with at least so many weights are trained in FP8 where others are in bf16;
    /// the names of the others ([`crate::nn::Blocks::train_in_fp8`]).
    fn train_in_fp8(&mut self, least_weights: usize) -> Vec<&'static str>;
}

/// What a backward pass has to do after the loss has gone back.
pub type RestOfBackward<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

/// The numbers of an encoder's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderShape {
    /// Width of every token, D.
    pub dim: i64,
    /// Number of blocks.
    pub depth: usize,
    /// Number of class tokens, C, which are the first of all.
    pub class_tokens: i64,
    /// Number of tokens before those of the patches, P: class tokens, then registers.
    pub prefix_tokens: i64,
    /// Side of a square patch, in pixels.
    pub patch_size: i64,
}

impl EncoderShape {
    /// Rows and columns of patches of `images` `[B, 3, H, W]`.
    pub fn grid(&self, images: &Tensor) -> [i64; 2] {
        let (_, _, height, width) = images.size4().expect("images are [B, 3, H, W]");
        [height / self.patch_size, width / self.patch_size]
    }

    /// `all` tokens that such an encoder gives for `input`, and those of its taps.
    pub(super) fn tokens(&self, all: Tensor, input: &Input, taps: Vec<Tensor>) -> Tokens {
        let Self { class_tokens, prefix_tokens, .. } = *self;
        Tokens { all, class_tokens, prefix_tokens, grid: self.grid(&input.images), taps }
    }
}

/// What an encoder looks at.
pub struct Input {
    /// Normalised, `[B, 3, H, W]`.
    pub images: Tensor,
    /// Patches that are seen, as indices into the row-by-row grid `[B, K]` int64, or all of them.
    pub keep: Option<Tensor>,
    /// Which branches are left out for which images.
    pub drop_path: DropPath,
    /// Blocks after which the tokens are wanted too, ascending, counted from 0.
    pub taps: Vec<usize>,
}

impl Input {
    /// All patches and all paths, and the tokens after the last block alone.
    pub fn whole(images: Tensor) -> Self {
        Self { images, keep: None, drop_path: DropPath::None, taps: Vec::new() }
    }
}
