//! Position embeddings for other input sizes than the trained one.

use tch::{Device, Kind, Tensor};

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

/// Fixed positions of a `grid_size` × `grid_size` patch grid behind a class token, which has zeros: `[1, 1+g·g, D]`
/// (Vaswani et al., 2017, over two axes as the masked autoencoders of He et al., 2022, have them). Sines and cosines of
/// the column stand before those of the row; frequency i of D/4 is 10000^(−4i/D).
pub fn sin_cos_positions(dim: i64, grid_size: i64) -> Tensor {
    let (options, quarter) = ((Kind::Double, Device::Cpu), dim / 4);
    let exponents = Tensor::arange(quarter, options) * (-1e4f64.ln() / quarter as f64);
    let angles = Tensor::arange(grid_size, options).unsqueeze(-1) * exponents.exp();
    let over_grid =
        |axis: i64| angles.unsqueeze(axis).expand([grid_size, grid_size, quarter], false);
    let (columns, rows) = (over_grid(0), over_grid(1));
    let patches = Tensor::cat(&[columns.sin(), columns.cos(), rows.sin(), rows.cos()], -1);
    patches.flatten(0, 1).constant_pad_nd([0, 0, 1, 0]).unsqueeze(0).to_kind(Kind::Float)
}
