//! What heads see of an encoder: maps of its normalised tokens.

use tch::{Kind, Tensor};

use crate::encoders::{Encoder, Input, Tokens};

/// Channels of a map: those of a patch token, and where the encoder has class tokens as many again
/// for their mean.
pub fn feature_dim(encoder: &dyn Encoder) -> i64 {
    let shape = encoder.shape();
    if shape.class_tokens > 0 { 2 * shape.dim } else { shape.dim }
}

/// The maps `[B, 2D, h, w]`, float32, of normalised `images` `[B, 3, H, W]` after each of `blocks`
/// (ascending, counted from 0, perhaps repeated): at each place the patch token, then the mean of the class tokens,
/// which is the same everywhere; all after the encoder's final norm, whichever block they come from.
/// Matrix products run in `compute`. An encoder without class tokens gives `[B, D, h, w]`.
///
/// # Panics
/// Where libtorch fails.
pub fn feature_maps(
    encoder: &dyn Encoder,
    images: &Tensor,
    blocks: &[usize],
    compute: Kind,
) -> Vec<Tensor> {
    tch::no_grad(|| {
        let mut distinct = blocks.to_vec();
        distinct.dedup();
        let input = Input { taps: distinct, ..Input::whole(images.shallow_clone()) };
        let Tokens { class_tokens, prefix_tokens, grid, taps, .. } =
            encoder.forward(&input, compute);
        let of_tap = |all| {
            let tokens = Tokens { all, class_tokens, prefix_tokens, grid, taps: Vec::new() };
            map(&encoder.normalise(tokens))
        };
        let maps: Vec<Tensor> = taps.into_iter().map(of_tap).collect();
        let place = |block| input.taps.iter().position(|tap| tap == block);
        let map_of = |block| maps[place(block).expect("it is tapped")].shallow_clone();
        blocks.iter().map(map_of).collect()
    })
}

fn map(tokens: &Tokens) -> Tensor {
    let patches = tokens.patches().to_kind(Kind::Float);
    let (batch, _, dim) = patches.size3().expect("tokens are [B, N, D]");
    let [rows, columns] = tokens.grid;
    let patches = patches.transpose(1, 2).reshape([batch, dim, rows, columns]);
    if tokens.class_tokens == 0 {
        return patches;
    }
    let class = tokens.class().to_kind(Kind::Float);
    let mean = class.mean_dim([1].as_slice(), false, Kind::Float);
    let mean = mean.view([batch, dim, 1, 1]).expand([-1, -1, rows, columns], false);
    Tensor::cat(&[patches, mean], 1)
}
