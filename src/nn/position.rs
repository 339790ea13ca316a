//! Position embeddings for other input sizes than the trained one.

use tch::Tensor;

/// [`resize_positions`] with a smoothing filter where patches become fewer, as `interpolate` of PyTorch has it with
/// `antialias`.
pub fn resize_positions_smoothly(
    positions: &Tensor,
    class_tokens: i64,
    rows: i64,
    columns: i64,
) -> Tensor {
    resized(positions, class_tokens, (rows, columns), |grid| {
        grid.internal_upsample_bicubic2d_aa([rows, columns], false, None, None)
    })
}

/// Resizes the patch part of `positions` `[1, C+g·g, D]`, seen as a square grid, to `rows` ×
/// `columns` patches by bicubic interpolation (align_corners = false); class tokens keep theirs.
/// Returns `[1, C+rows·columns, D]`.
pub fn resize_positions(positions: &Tensor, class_tokens: i64, rows: i64, columns: i64) -> Tensor {
    resized(positions, class_tokens, (rows, columns), |grid| {
        grid.upsample_bicubic2d([rows, columns], false, None, None)
    })
}

fn resized(
    positions: &Tensor,
    class_tokens: i64,
    (rows, columns): (i64, i64),
    resize: impl FnOnce(Tensor) -> Tensor,
) -> Tensor {
    let (_, tokens, dim) = positions.size3().expect("positions are [1, T, D]");
    let patches = tokens - class_tokens;
    let grid_size = (patches as f64).sqrt().round() as i64;
    if (rows, columns) == (grid_size, grid_size) {
        return positions.shallow_clone();
    }
    let class = positions.narrow(1, 0, class_tokens);
    let grid = positions
        .narrow(1, class_tokens, patches)
        .reshape([1, grid_size, grid_size, dim])
        .permute([0, 3, 1, 2]);
    let grid = resize(grid).permute([0, 2, 3, 1]).reshape([1, rows * columns, dim]);
    Tensor::cat(&[class, grid], 1)
}
