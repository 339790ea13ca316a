//! Floating-point operations of the models, as papers count them: matrix products and attention
//! only, a multiplication with an addition as two.

use super::decoder::DecoderShape;
use super::projector::ProjectorKind;

/// Operations of `depth` transformer blocks of width `dim` over `tokens` tokens.
///
/// Each block has products with (4 + 2 · MLP ratio) · d² weights for every token, and attention's two
/// products of T × T × d.
pub fn transformer_flops(dim: usize, depth: usize, mlp_ratio: usize, tokens: usize) -> f64 {
    block_flops((dim, depth), (dim * mlp_ratio, false), tokens)
}

/// [`transformer_flops`] of MLPs with a hidden layer of this width, with three matrices where it is gated.
pub fn block_flops(
    (dim, depth): (usize, usize),
    (hidden, gated): (usize, bool),
    tokens: usize,
) -> f64 {
    let of_mlp = if gated { 3 } else { 2 } * hidden;
    let [dim, depth, tokens, of_mlp] = [dim, depth, tokens, of_mlp].map(|number| number as f64);
    let products = 2.0 * tokens * (4.0 * dim + of_mlp) * dim;
    let attention = 4.0 * tokens * tokens * dim;
    depth * (products + attention)
}

/// Operations of embedding so many patches in width `dim`: one product with 3 · p · p · d weights for
/// each. Predicting their pixels takes the same.
pub fn patch_flops(dim: usize, patch_size: usize, patches: usize) -> f64 {
    2.0 * (patches * 3 * patch_size * patch_size * dim) as f64
}

/// Operations of a decoder's forward pass: its blocks over all `patches`, the prediction of their
/// pixels, and the way in from an encoder of width `from` that saw `seen` of them.
pub fn decoder_flops(shape: &DecoderShape, from: usize, seen: usize, patches: usize) -> f64 {
    let DecoderShape { dim, depth, mlp_ratio, patch_size, prefix_tokens, .. } = *shape;
    transformer_flops(dim, depth, mlp_ratio, prefix_tokens + patches)
        + patch_flops(dim, patch_size, patches)
        + 2.0 * ((prefix_tokens + seen) * from * dim) as f64
}

/// Operations of a projector's forward pass from width `from` to width `to` over `tokens` tokens.
pub fn projector_flops(kind: ProjectorKind, (from, to): (usize, usize), tokens: usize) -> f64 {
    let weights = match kind {
        ProjectorKind::Mlp => from * to + to * to,
        ProjectorKind::Linear => from * to,
        ProjectorKind::None => 0,
    };
    2.0 * (tokens * weights) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_operations_a_weight_and_token() {
        // Weights of the products alone; attention is 1.4 % on top at 264 tokens.
        let weights = 48.0 * 12.0 * 3072.0 * 3072.0;
        let ratio = transformer_flops(3072, 48, 4, 264) / (2.0 * 264.0 * weights);
        assert!((1.013..1.016).contains(&ratio), "{ratio}");
        assert_eq!(projector_flops(ProjectorKind::Mlp, (2, 3), 5), 150.0);
        assert_eq!(projector_flops(ProjectorKind::Linear, (2, 3), 5), 60.0);
        let shape = DecoderShape {
            dim: 3072,
            depth: 48,
            heads: 32,
            mlp_ratio: 4,
            patch_size: 16,
            prefix_tokens: 8,
        };
        let way_in = decoder_flops(&shape, 10, 56, 256)
            - transformer_flops(3072, 48, 4, 264)
            - patch_flops(3072, 16, 256);
        assert_eq!(way_in, 2.0 * 64.0 * 10.0 * 3072.0);
    }
}
