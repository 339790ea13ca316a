//! From pixels to rows of numbers, one a patch.

use tch::{Device, Kind, Tensor};

/// Turns bytes into numbers around zero: `(pixel / 255 - mean) / std` for each channel.
pub struct Normalisation {
    /// In bytes, `[3]`.
    mean: Tensor,
    std: Tensor,
}

impl Normalisation {
    /// For pixels in `[0, 1]` with this mean and standard deviation of each channel, on `device`.
    pub fn new(mean: [f64; 3], std: [f64; 3], device: Device) -> Self {
        let on_device = |values: [f64; 3]| {
            Tensor::from_slice(&values.map(|value| (value * 255.0) as f32)).to_device(device)
        };
        Self { mean: on_device(mean), std: on_device(std) }
    }

    /// Bytes `[B, H, W, 3]` to float32 `[B, 3, H, W]`.
    pub fn apply(&self, bytes: &Tensor) -> Tensor {
        let pixels = bytes.to_kind(Kind::Float);
        ((pixels - &self.mean) / &self.std).permute([0, 3, 1, 2]).contiguous()
    }
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
