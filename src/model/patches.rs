//! From pixels to rows of numbers, one a patch.

use tch::{Kind, Tensor};

/// Normalises bytes `[B, H, W, 3]` to float32 `[B, 3, H, W]` on the tensor's device:
/// `(pixel / 255 - mean) / std` for each channel.
pub fn normalise(bytes: &Tensor, mean: [f64; 3], std: [f64; 3]) -> Tensor {
    let on_device = |values: [f64; 3]| {
        Tensor::from_slice(&values.map(|value| (value * 255.0) as f32)).to_device(bytes.device())
    };
    let pixels = bytes.to_kind(Kind::Float);
    ((pixels - on_device(mean)) / on_device(std)).permute([0, 3, 1, 2]).contiguous()
}

/// Cuts `[B, 3, H, W]` into patches `[B, H/p · W/p, 3·p·p]`, row by row; a patch holds its
/// channels one after another, as a convolution's kernel does.
pub fn patchify(images: &Tensor, patch_size: i64) -> Tensor {
    let (batch, channels, height, width) = images.size4().expect("images are [B, 3, H, W]");
    let (rows, columns) = (height / patch_size, width / patch_size);
    images
        .reshape([batch, channels, rows, patch_size, columns, patch_size])
        .permute([0, 2, 4, 1, 3, 5])
        .reshape([batch, rows * columns, channels * patch_size * patch_size])
}
