//! [`Family`]: what all encoders of one kind have in common, and [`EncoderSpec`], one of them in
//! numbers.

use std::fmt;

use anyhow::Result;
use serde_json::Value;
use tch::Tensor;

use super::drawing::{Drawing, Drawn};
use super::encoder::Encoder;
use super::whereabouts::Whereabouts;
use crate::nn::{Activation, Biases, Parameters, Storage};
use crate::weights::{NameMap, WeightFile};

/// Encoders that are computed in the same way and whose weights have the same names: the model, its
/// names on disk, and its published sizes.
pub trait Family: Sync {
    /// The value of the key `family` in configurations.
    fn name(&self) -> &'static str;

    /// What messages call it.
    fn title(&self) -> &'static str;

    /// The published encoders by their names.
    fn published(&self) -> Vec<(&'static str, EncoderSpec)>;

    /// Where the weights of the published encoder of this name are to be had.
    fn whereabouts(&self, _: &str) -> Whereabouts {
        Whereabouts::default()
    }

    /// What a configuration that leaves a number out means: patch size, class tokens, registers and
    /// MLP of the published encoders.
    fn defaults(&self) -> EncoderSpec;

    /// Whether such an encoder can be built.
    ///
    /// # Errors
    /// The key at fault, with what was found and what was expected.
    fn check(&self, spec: &EncoderSpec) -> Result<(), (&'static str, String)>;

    /// Whether it can leave out patches that it is not to see.
    fn takes_masks(&self) -> bool;

    /// An encoder whose position embeddings fit a `grid_size` × `grid_size` patch grid.
    fn build(
        &self,
        parameters: &mut Parameters,
        spec: &EncoderSpec,
        grid_size: usize,
    ) -> Box<dyn Encoder>;

    /// Floating-point operations of a forward pass over one image of which `patches` patches are
    /// seen, counted as [`crate::nn::transformer_flops`] does.
    fn flops(&self, spec: &EncoderSpec, patches: usize) -> f64;

    /// The parameter `name` for `grid_size` × `grid_size` patches, where it depends on the grid.
    fn resized(
        &self,
        spec: &EncoderSpec,
        name: &str,
        parameter: &Tensor,
        grid_size: usize,
    ) -> Tensor;

    /// The names that `transformers` stores the parameters of such an encoder under.
    fn hugging_face_names(&self, spec: &EncoderSpec) -> &'static dyn NameMap;

    /// The names that its parameters have in this program, in a file of them.
    fn own_names(&self) -> &'static dyn NameMap;

    /// The names of all files that are read; of those that know as many of a file's tensors, the first is meant.
    fn layouts(&self) -> Vec<&'static dyn NameMap> {
        vec![self.hugging_face_names(&self.defaults()), self.own_names()]
    }

    /// Whether checkpoints have a tensor of this name beside the encoder: a projector, the decoder
    /// of masked autoencoding, a classifier.
    fn is_beside(&self, name: &str) -> bool;

    /// The encoder's numbers as the shapes of its stored tensors tell them, `heads` left 0.
    ///
    /// # Errors
    /// A tensor is missing, or is of no such encoder.
    fn measure(&self, file: &WeightFile) -> Result<StoredEncoder>;

    /// Patches along each side of the images that the stored positions are for, `spec` being what is
    /// expected of the encoder; 0 where no tensor tells.
    fn stored_grid(&self, spec: &EncoderSpec, file: &WeightFile) -> usize;

    /// The names of an encoder's parameters, in the order in which they are exported.
    fn parameters(&self, spec: &EncoderSpec) -> Vec<String> {
        let mut parameters = Parameters::new(Storage::Shapes);
        self.build(&mut parameters, spec, 1);
        parameters.named().iter().map(|(name, _)| name.clone()).collect()
    }

    /// The one file of an export under this program's names.
    fn file_name(&self) -> &'static str;

    /// The `model_type` of `config.json`, as it is written.
    fn model_type(&self) -> &'static str;

    /// The model types that are read: also those of larger models that hold such an encoder.
    fn model_types(&self) -> Vec<&'static str> {
        vec![self.model_type()]
    }

    /// What of it no loss reads, so that training leaves it as it begins.
    fn untrained(&self) -> Option<&'static str> {
        None
    }

    /// Whether published encoders of the same shapes are computed in different ways, so that only a `config.json`
    /// tells what weights are of: what it is that differs.
    fn untold(&self) -> Option<&'static str> {
        None
    }

    /// The encoder that a `config.json` of its model type describes.
    ///
    /// # Errors
    /// A key is missing, or it is computed in another way.
    fn read_config(&self, config: Value) -> Result<EncoderSpec>;

    /// What `transformers` writes to `config.json` beside the weights in `file`.
    ///
    /// # Errors
    /// Weights in their number format are not exported.
    fn write_config(&self, encoder: &StoredEncoder, file: &WeightFile) -> Result<Value>;

    /// What draws such an encoder as a graph for other runtimes; none where nothing does.
    fn drawer(&self) -> Option<Drawer> {
        None
    }

    /// The class of `transformers` that prepares its images.
    fn image_processor(&self) -> &'static str;
}

/// Draws an encoder as a graph.
pub type Drawer = fn(&EncoderSpec, &mut Drawing) -> Result<Drawn>;

impl PartialEq for dyn Family {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn Family {}

impl fmt::Debug for dyn Family {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The family and the numbers that fix an encoder's parameters, all but the size of its position
/// grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderSpec {
    pub family: &'static dyn Family,
    /// Width of every token.
    pub dim: usize,
    /// Number of transformer blocks.
    pub depth: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// Side of a square patch, in pixels.
    pub patch_size: usize,
    /// Learned tokens that stand before all others and are about the whole image.
    pub class_tokens: usize,
    /// Learned tokens behind them that nothing is read from.
    pub registers: usize,
    /// Width of the MLP's hidden layer over `dim`, rounded up.
    pub mlp_ratio: usize,
    /// The hidden layer's width itself where it is no multiple of `dim`, and else 0.
    pub mlp_width: usize,
    /// Whether one half of an MLP's first product gates the other.
    pub gated: bool,
    /// What stands between the products of an MLP that is not gated.
    pub activation: Activation,
    /// Which products of a block add a bias.
    pub biases: Biases,
    /// The theta of rotary positions; 0 where positions are not rotary.
    pub rope_theta: usize,
}

impl EncoderSpec {
    /// These numbers with those of `noted` that no shape of a tensor tells.
    #[must_use]
    pub(super) fn completed_by(self, noted: &Self) -> Self {
        let Self { heads, rope_theta, activation, .. } = *noted;
        Self { heads, rope_theta, activation, ..self }
    }

    /// Width of a plain MLP's hidden layer.
    pub(super) fn hidden(&self) -> usize {
        if self.mlp_width > 0 { self.mlp_width } else { self.dim * self.mlp_ratio }
    }

    /// These numbers with a hidden layer of this width.
    #[must_use]
    pub(super) fn with_hidden(self, width: usize) -> Self {
        let dim = self.dim.max(1);
        let mlp_width = if width.is_multiple_of(dim) { 0 } else { width };
        Self { mlp_ratio: width.div_ceil(dim), mlp_width, ..self }
    }

    /// Tokens before those of the patches.
    pub fn prefix_tokens(&self) -> usize {
        self.class_tokens + self.registers
    }

    /// Patches along each side of a square image of `image_size` pixels.
    pub fn grid_size(&self, image_size: usize) -> usize {
        image_size / self.patch_size
    }

    /// The encoder, whose position embeddings fit a `grid_size` × `grid_size` patch grid.
    pub fn build(&self, parameters: &mut Parameters, grid_size: usize) -> Box<dyn Encoder> {
        self.family.build(parameters, self, grid_size)
    }

    /// See [`Family::flops`].
    pub fn flops(&self, patches: usize) -> f64 {
        self.family.flops(self, patches)
    }

    /// The published name of these numbers, where they have one.
    pub fn name(&self) -> Option<&'static str> {
        let published = self.family.published().into_iter();
        published.filter(|(_, spec)| spec == self).map(|(name, _)| name).next()
    }
}

/// An encoder's numbers, as its stored weights tell them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredEncoder {
    pub spec: EncoderSpec,
    /// Side of the square image whose patches the position embedding counts, in pixels; of encoders that have none,
    /// of published ones' images.
    pub image_size: usize,
}
