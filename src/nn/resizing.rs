//! Images in another size than they were decoded in.

use tch::{Device, Kind, Tensor};

/// Resizes normalised images on their device.
pub struct ImageResizing {
    /// What black and white pixels are, normalised: `[1, 3, 1, 1]`.
    black: Tensor,
    white: Tensor,
}

impl ImageResizing {
    /// For pixels in `[0, 1]` that were normalised with this mean and standard deviation of each channel, on
    /// `device`.
    pub fn new(mean: [f64; 3], std: [f64; 3], device: Device) -> Self {
        let normalised = |pixel: f64| {
            let of_channel = |channel: usize| ((pixel - mean[channel]) / std[channel]) as f32;
            let values: [f32; 3] = std::array::from_fn(of_channel);
            Tensor::from_slice(&values).view([1, 3, 1, 1]).to_device(device)
        };
        Self { black: normalised(0.0), white: normalised(1.0) }
    }

    /// `images` `[B, 3, H, W]` float32 as `[B, 3, size, size]`: bicubic with a smoothing filter where they become
    /// smaller (`interpolate` of PyTorch with `antialias`), cut to what pixels can be.
    pub fn resize(&self, images: &Tensor, size: i64) -> Tensor {
        let (_, _, height, width) = images.size4().expect("images are [B, 3, H, W]");
        if (height, width) == (size, size) {
            return images.shallow_clone();
        }
        let resized = images.to_kind(Kind::Float).internal_upsample_bicubic2d_aa(
            [size, size],
            false,
            None,
            None,
        );
        resized.maximum(&self.black).minimum(&self.white)
    }
}
