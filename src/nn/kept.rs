//! Memory that a forward pass leaves for the backward pass, in bytes an image: the tensors that autograd keeps.

use super::drop_path::DropPathMode;
use super::projector::ProjectorKind;

/// What decides how much a pass keeps, beside the size of what it passes through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Keeping {
    /// Bytes of a number of matrix products: 4, or 2 in bf16.
    pub number: f64,
    /// Drop path probability of the last block.
    pub drop_path: f64,
    pub mode: DropPathMode,
    /// First blocks that keep only their inputs.
    pub recomputed: usize,
}

/// Bytes that `depth` blocks of width `dim` keep of `tokens` tokens.
///
/// Of each number of the residual stream, which is float32, both LayerNorms keep their input (4 bytes each). In the
/// kind of products there are kept both LayerNorms' outputs, queries, keys and values, the attention's output, the
/// hidden layer before and after GELU, and where branches are scaled by drop path, both branches.
pub fn transformer_kept_bytes(
    (dim, depth, mlp_ratio): (usize, usize, usize),
    tokens: usize,
    keeping: &Keeping,
) -> f64 {
    let has_drop_path = keeping.drop_path > 0.0;
    let branches = if has_drop_path { 2.0 } else { 0.0 };
    let of_block = 2.0 * 4.0 + keeping.number * (6.0 + 2.0 * mlp_ratio as f64 + branches);
    let computed = match keeping.mode {
        // Rates rise linearly from 0.
        DropPathMode::Skip if has_drop_path => 1.0 - keeping.drop_path / 2.0,
        _ => 1.0,
    };
    let recomputed = keeping.recomputed.min(depth) as f64;
    let of_all = recomputed * 4.0 + (depth as f64 - recomputed) * of_block * computed;
    (tokens * dim) as f64 * of_all
}

/// Bytes that a projector from width `from` to width `to` and the losses behind it keep of `tokens` tokens: its
/// input, an MLP's hidden layer before and after GELU, its output, and that in float32 for the losses.
pub fn projector_kept_bytes(
    kind: ProjectorKind,
    (from, to): (usize, usize),
    tokens: usize,
    keeping: &Keeping,
) -> f64 {
    let numbers = match kind {
        ProjectorKind::Mlp => from + 3 * to,
        ProjectorKind::Linear => from + to,
        ProjectorKind::None => from,
    };
    tokens as f64 * (keeping.number * numbers as f64 + 4.0 * to as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 40 bytes a number in bf16 with drop path, as counted by hand, of which a recomputed block keeps 4.
    #[test]
    fn blocks_keep_what_autograd_saves() {
        let mode = DropPathMode::Scale;
        let keeping = Keeping { number: 2.0, drop_path: 0.4, mode, recomputed: 0 };
        let bytes = |keeping: &Keeping| transformer_kept_bytes((10, 4, 4), 3, keeping) / 30.0;
        assert_eq!(bytes(&keeping), 160.0);
        assert_eq!(bytes(&Keeping { drop_path: 0.0, ..keeping }), 4.0 * 36.0);
        assert_eq!(bytes(&Keeping { number: 4.0, ..keeping }), 4.0 * 72.0);
        assert_eq!(bytes(&Keeping { mode: DropPathMode::Skip, ..keeping }), 128.0);
        assert_eq!(bytes(&Keeping { recomputed: 3, ..keeping }), 52.0);
        let projector = |kind| projector_kept_bytes(kind, (10, 20), 3, &keeping);
        assert_eq!(projector(ProjectorKind::Mlp), 3.0 * (140.0 + 80.0));
        assert_eq!(projector(ProjectorKind::Linear), 3.0 * (60.0 + 80.0));
    }
}
