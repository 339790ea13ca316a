//! What the shapes of stored weights tell of their encoder.

use anyhow::{Context, Result, bail};

use super::spec::{Dinov2, hidden};
use crate::encoders::family::{EncoderSpec, StoredEncoder};
use crate::encoders::measuring::{grid_size, shape};
use crate::weights::WeightFile;

/// MLP ratios that a hidden width is looked for among.
const RATIOS: std::ops::RangeInclusive<usize> = 1..=16;

impl Dinov2 {
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
        let registers = match self.has_registers {
            true => shape("register_tokens")?.get(1).copied().unwrap_or(0),
            false => 0,
        };
        let gated = file.shape("blocks.0.mlp.w12.weight").is_some();
        let last = if gated { "blocks.0.mlp.w3.weight" } else { "blocks.0.mlp.fc2.weight" };
        let width = shape(last)?.get(1).copied().unwrap_or(0);
        let is_there = |block: &usize| file.shape(&format!("blocks.{block}.ls1.gamma")).is_some();
        let depth = (0..).take_while(is_there).count();
        let of_ratio = |mlp_ratio| EncoderSpec {
            patch_size,
            registers,
            mlp_ratio,
            gated,
            ..self.spec(dim, depth, 0)
        };
        let spec = RATIOS.map(of_ratio).find(|spec| hidden(spec) == width);
        let spec = spec.with_context(|| {
            format!("the MLP's hidden width {width} belongs to no whole ratio of {dim}")
        })?;
        Ok(StoredEncoder { spec, image_size: grid_size(file, 1)? * patch_size })
    }
}
