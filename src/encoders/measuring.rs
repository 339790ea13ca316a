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

/// How many tokens the stored positions `[1, T, D]` or `[T, D]` are for.
fn tokens(shape: &[usize]) -> usize {
    shape.len().checked_sub(2).map_or(0, |dimension| shape[dimension])
}

/// Patches along each side of the images that the stored positions are for, which also count `class_tokens`.
///
/// # Errors
/// There are none, or they are for no square.
pub(super) fn grid_size(file: &WeightFile, class_tokens: usize) -> Result<usize> {
    let patches = tokens(&shape(file, "pos_embed")?).saturating_sub(class_tokens);
    let grid_size = patches.isqrt();
    ensure!(
        grid_size * grid_size == patches,
        "pos_embed counts {patches} patches, which is no square"
    );
    Ok(grid_size)
}

/// The same of positions that are for no square either, rounded down; 0 where there are none.
pub(super) fn stored_grid(file: &WeightFile, class_tokens: usize) -> usize {
    let shape = shape(file, "pos_embed").unwrap_or_default();
    tokens(&shape).saturating_sub(class_tokens).isqrt()
}
