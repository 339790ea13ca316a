//! Floating-point operations of the models, as papers count them: matrix products and attention
//! only, a multiplication with an addition as two.

use crate::config::EncoderSize;

/// Operations of an encoder's forward pass over one image of which it sees `patches` patches.
///
/// Each block has products with (4 + 2 · MLP ratio) · d² weights for every token, and attention's two
/// products of T × T × d; the patch embedding one with 3 · p · p · d weights for every patch.
pub fn encoder_flops(size: &EncoderSize, patches: usize) -> f64 {
    let EncoderSize { dim, depth, patch_size, class_tokens, mlp_ratio, .. } = *size;
    let [dim, depth, patch] = [dim, depth, patch_size].map(|number| number as f64);
    let tokens = (class_tokens + patches) as f64;
    let products = 2.0 * tokens * (4 + 2 * mlp_ratio) as f64 * dim * dim;
    let attention = 4.0 * tokens * tokens * dim;
    depth * (products + attention) + 2.0 * patches as f64 * 3.0 * patch * patch * dim
}

/// Operations of a decoder's forward pass: its blocks over all `patches`, the prediction of their
/// pixels, and the way in from an encoder of width `from` that saw `seen` of them.
pub fn decoder_flops(size: &EncoderSize, from: usize, seen: usize, patches: usize) -> f64 {
    // Predicting pixels takes what embedding them takes.
    let tokens = size.class_tokens + seen;
    encoder_flops(size, patches) + 2.0 * (tokens * from * size.dim) as f64
}

/// Operations of a projector's forward pass from width `from` to width `to` over `tokens` tokens.
pub fn projector_flops(from: usize, to: usize, tokens: usize) -> f64 {
    2.0 * (tokens * (from * to + to * to)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_operations_a_weight_and_token() {
        // Weights of the products alone; attention is 1.4 % on top at 264 tokens.
        let size = EncoderSize::named("pixio_vit5b16").unwrap();
        let weights = 48.0 * 12.0 * 3072.0 * 3072.0;
        let ratio = encoder_flops(&size, 256) / (2.0 * 264.0 * weights);
        assert!((1.013..1.016).contains(&ratio), "{ratio}");
        assert_eq!(projector_flops(2, 3, 5), 150.0);
        let way_in = decoder_flops(&size, 10, 56, 256) - encoder_flops(&size, 256);
        assert_eq!(way_in, 2.0 * 64.0 * 10.0 * 3072.0);
    }
}
