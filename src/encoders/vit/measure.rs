//! What the shapes of stored weights tell of their encoder.

use anyhow::{Result, bail, ensure};

use super::spec::Vit;
use crate::encoders::family::{EncoderSpec, StoredEncoder};
use crate::encoders::measuring::{grid_size, shape};
use crate::nn::Biases;
use crate::weights::WeightFile;

impl Vit {
    /// The numbers of the encoder in `file`; heads, which no shape tells, are left 0.
    ///
    /// # Errors
    /// A tensor is missing, or is of no such encoder.
    pub(super) fn measured(&self, file: &WeightFile) -> Result<StoredEncoder> {
        let shape = |name: &str| shape(file, name);
        let [1, 1, dim] = shape("cls_token")?[..] else { bail!("cls_token is not [1, 1, width]") };
        let [_, 3, patch_size, _] = shape("patch_embed.proj.weight")?[..] else {
            bail!("patch_embed.proj.weight is not [width, 3, patch, patch]")
        };
        let hidden = shape("blocks.0.mlp.fc1.weight")?.first().copied().unwrap_or(0);
        ensure!(
            dim > 0 && hidden.is_multiple_of(dim),
            "the MLP's hidden width {hidden} is no multiple of {dim}"
        );
        let is_there =
            |block: &usize| file.shape(&format!("blocks.{block}.norm1.weight")).is_some();
        let has_bias = file.shape("blocks.0.attn.qkv.bias").is_some();
        let spec = EncoderSpec {
            patch_size,
            mlp_ratio: hidden / dim,
            biases: if has_bias { Biases::ALL } else { Biases::WITHOUT_QKV },
            ..self.spec(dim, (0..).take_while(is_there).count(), 0)
        };
        Ok(StoredEncoder { spec, image_size: grid_size(file, self.class_tokens())? * patch_size })
    }
}
