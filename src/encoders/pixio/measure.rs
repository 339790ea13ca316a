//! What the shapes of stored weights tell of their encoder.

use anyhow::{Context, Result, bail, ensure};

use super::spec::Pixio;
use crate::encoders::family::{EncoderSpec, StoredEncoder};
use crate::weights::WeightFile;

/// The numbers of the encoder in `file`; heads, which no shape tells, are left 0.
///
/// # Errors
/// A tensor is missing, or is of no Pixio encoder.
pub(super) fn measure(file: &WeightFile) -> Result<StoredEncoder> {
    let shape = |name: &str| -> Result<Vec<usize>> {
        let shape = file.shape(name);
        let shape = shape.with_context(|| format!("{} is missing", file.absent(name)))?;
        Ok(shape.iter().map(|&size| size as usize).collect())
    };
    let [1, class_tokens, dim] = shape("cls_token")?[..] else {
        bail!("cls_token is not [1, class tokens, width]")
    };
    let [_, 3, patch_size, _] = shape("patch_embed.proj.weight")?[..] else {
        bail!("patch_embed.proj.weight is not [width, 3, patch, patch]")
    };
    let hidden = shape("blocks.0.mlp.fc1.weight")?.first().copied().unwrap_or(0);
    let tokens = shape("pos_embed")?.get(1).copied().unwrap_or(0);
    let patches = tokens.saturating_sub(class_tokens);
    let grid_size = patches.isqrt();
    ensure!(
        grid_size * grid_size == patches,
        "pos_embed counts {patches} patches, which is no square"
    );
    ensure!(dim > 0 && hidden.is_multiple_of(dim), "the MLP's width is no multiple of {dim}");
    let is_there = |block: &usize| file.shape(&format!("blocks.{block}.norm1.weight")).is_some();
    let spec = EncoderSpec {
        family: &Pixio,
        dim,
        depth: (0..).take_while(is_there).count(),
        heads: 0,
        patch_size,
        class_tokens,
        registers: 0,
        mlp_ratio: hidden / dim,
        gated: false,
    };
    Ok(StoredEncoder { spec, image_size: grid_size * patch_size })
}

/// Patches along each side of the images that `file` has positions for, beside the class tokens of
/// `spec`; 0 where it has none.
pub(super) fn stored_grid(spec: &EncoderSpec, file: &WeightFile) -> usize {
    let tokens = file.shape("pos_embed").and_then(|shape| shape.get(1).copied()).unwrap_or(0);
    (tokens as usize).saturating_sub(spec.class_tokens).isqrt()
}
