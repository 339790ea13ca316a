//! What stored weights tell of the encoder that they belong to.

use anyhow::{Context, Result, bail, ensure};

use super::weight_file::{Entry, WeightFile};
use crate::config::{EncoderSize, SIZES};

/// An encoder's numbers, as its stored weights tell them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredEncoder {
    pub size: EncoderSize,
    /// Side of the square image whose patches the position embedding counts, in pixels.
    pub image_size: usize,
}

impl WeightFile {
    /// The encoder's numbers: all but the heads from the shapes of the tensors, the heads from
    /// `heads`, else from where they are noted, else from the published encoder of this size.
    ///
    /// # Errors
    /// A tensor is missing, what is noted beside the tensors contradicts them, or nothing tells
    /// the number of heads.
    pub fn encoder(&self, heads: Option<usize>) -> Result<StoredEncoder> {
        let measured = self.measure().with_context(|| self.path.display().to_string())?;
        let size = measured.size;
        let with_heads = |heads| EncoderSize { heads, ..size };
        if let Some(declared) = self.declared {
            ensure!(
                with_heads(declared.heads) == declared,
                "{}: the tensors are of another encoder ({size:?}) than the one noted beside them \
                 ({declared:?})",
                self.path.display()
            );
        }
        let published = SIZES
            .iter()
            .filter_map(|size| EncoderSize::named(size.0))
            .find(|published| with_heads(published.heads) == *published);
        let heads = heads
            .or(self.declared.map(|declared| declared.heads))
            .or(published.map(|published| published.heads))
            .with_context(|| {
                format!(
                    "{}: nothing tells the number of attention heads of this encoder (width {}, \
                     depth {}); give it with --heads",
                    self.path.display(),
                    size.dim,
                    size.depth
                )
            })?;
        ensure!(
            heads > 0 && size.dim.is_multiple_of(heads),
            "{}: {heads} attention heads do not divide the width {}",
            self.path.display(),
            size.dim
        );
        Ok(StoredEncoder { size: with_heads(heads), ..measured })
    }

    /// The numbers that shapes tell; heads are left 0.
    fn measure(&self) -> Result<StoredEncoder> {
        let shape = |name: &str| -> Result<Vec<usize>> {
            let shape = self.entries.get(name).and_then(Entry::shape);
            let shape = shape.with_context(|| format!("{} is missing", self.absent(name)))?;
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
        let side = patches.isqrt();
        ensure!(side * side == patches, "pos_embed counts {patches} patches, which is no square");
        ensure!(dim > 0 && hidden.is_multiple_of(dim), "the MLP's width is no multiple of {dim}");
        let depth = (0..)
            .take_while(|block| self.entries.contains_key(&format!("blocks.{block}.norm1.weight")))
            .count();
        let mlp_ratio = hidden / dim;
        let size = EncoderSize { dim, depth, heads: 0, patch_size, class_tokens, mlp_ratio };
        Ok(StoredEncoder { size, image_size: side * patch_size })
    }
}
