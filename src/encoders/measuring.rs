//! What the shapes of stored tensors tell of a vision transformer, whatever its family.

use anyhow::{Context, Result, ensure};

use crate::weights::WeightFile;

/// The shape of the stored tensor `name`.
///
/// # Errors
/// There is none.
pub(super) fn shape(file: &WeightFile, name: &str) -> Result<Vec<usize>> {
    let shape = file.shape(name);
    let shape = shape.with_context(|| format!("{} is missing", file.absent(name)))?;
    Ok(shape.iter().map(|&size| size as usize).collect())
}

/// Patches along each side of the images that the stored positions are for, which also count `class_tokens`.
///
/// # Errors
/// There are none, or they are for no square.
pub(super) fn grid_size(file: &WeightFile, class_tokens: usize) -> Result<usize> {
    let tokens = shape(file, "pos_embed")?.get(1).copied().unwrap_or(0);
    let patches = tokens.saturating_sub(class_tokens);
    let grid_size = patches.isqrt();
    ensure!(
        grid_size * grid_size == patches,
        "pos_embed counts {patches} patches, which is no square"
    );
    Ok(grid_size)
}

/// The same of positions that are for no square either, rounded down; 0 where there are none.
pub(super) fn stored_grid(file: &WeightFile, class_tokens: usize) -> usize {
    let tokens = file.shape("pos_embed").and_then(|shape| shape.get(1).copied()).unwrap_or(0);
    (tokens as usize).saturating_sub(class_tokens).isqrt()
}
