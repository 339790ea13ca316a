//! Rows of numbers, as kernels work on them.

use tch::Tensor;

/// Neighbouring numbers of a row that a thread holds in its registers.
pub(super) const HELD: usize = 8;
pub(super) const WARP: usize = 32;
/// How many times [`HELD`] numbers a thread holds where rows are only rounded.
const VECTORS: usize = 2;
/// Most threads of a block on any GPU.
const MOST_THREADS: usize = 1024;

/// Whether rows of `dim` numbers can be normalised.
pub fn kernels_fit(dim: usize) -> bool {
    dim > 0 && dim.is_multiple_of(HELD) && dim <= HELD * MOST_THREADS
}

/// Whether rows of `dim` numbers can be rounded.
pub fn rounding_fits(dim: usize) -> bool {
    dim > 0 && dim.is_multiple_of(HELD) && dim <= VECTORS * HELD * MOST_THREADS
}

/// Threads that normalise a row of `dim` numbers: whole warps.
pub fn threads_of_row(dim: usize) -> usize {
    (dim / HELD).next_multiple_of(WARP)
}

/// Threads that round a row of `dim` numbers: whole warps.
pub fn threads_that_round(dim: usize) -> usize {
    dim.div_ceil(VECTORS * HELD).next_multiple_of(WARP)
}

/// A LayerNorm's numbers: over rows of D, `(x - mean) / sqrt(variance + eps) * weight + bias`.
pub struct RowNorm<'a> {
    /// `[D]`, of the residual's kind.
    pub weight: &'a Tensor,
    /// `[D]`, of the residual's kind.
    pub bias: &'a Tensor,
    pub eps: f64,
}

/// Rows of numbers in e4m3 with a scale each: `values · scales` are nearly the numbers.
pub struct RoundedRows {
    /// `[M, K]` e4m3.
    pub values: Tensor,
    /// `[M, 1]` float32.
    pub scales: Tensor,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_whole_warps() {
        assert_eq!([8, 256, 264, 3072, 8192].map(threads_of_row), [32, 32, 64, 384, 1024]);
        assert_eq!(
            [8, 512, 520, 3072, 12_288, 16_384].map(threads_that_round),
            [32, 32, 64, 192, 768, 1024]
        );
        assert_eq!([0, 12_284, 16_384, 16_392].map(rounding_fits), [false, false, true, false]);
        assert_eq!(
            [0, 4, 8, 3072, 8192, 8200].map(kernels_fit),
            [false, false, true, true, true, false]
        );
    }
}
