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

    /// The inverse, rounded and cut to what bytes hold.
    pub fn undo(&self, images: &Tensor) -> Tensor {
        let pixels = images.permute([0, 2, 3, 1]) * &self.std + &self.mean;
        pixels.round().clamp(0.0, 255.0).to_kind(Kind::Uint8)
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

/// The inverse of [`patchify`]: `[B, rows · columns, 3·p·p]` to `[B, 3, H, W]`.
pub fn unpatchify(patches: &Tensor, patch_size: i64, rows: i64, columns: i64) -> Tensor {
    let batch = patches.size()[0];
    patches
        .reshape([batch, rows, columns, 3, patch_size, patch_size])
        .permute([0, 3, 1, 4, 2, 5])
        .reshape([batch, 3, rows * patch_size, columns * patch_size])
}

/// Patches `[B, N, 3·p·p]` as masked autoencoders predict them: each with its own mean and standard
/// deviation (unbiased) taken out, and each pixel's channels together, `[B, N, p·p·3]` float32
/// (He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022).
pub struct NormalisedPixels {
    pub pixels: Tensor,
    /// `[B, N, 1]`.
    mean: Tensor,
    deviation: Tensor,
}

impl NormalisedPixels {
    /// Those of `patches`.
    pub fn from_patches(patches: &Tensor) -> Self {
        let pixels = channels_together(&patches.to_kind(Kind::Float));
        let mean = pixels.mean_dim(-1, true, Kind::Float);
        let deviation = (pixels.var_dim(-1, true, true) + 1e-6).sqrt();
        Self { pixels: (pixels - &mean) / &deviation, mean, deviation }
    }

    /// Pixels in these units, such as predictions, in the units and the layout of the patches.
    pub fn undo(&self, pixels: &Tensor) -> Tensor {
        channels_apart(&(pixels * &self.deviation + &self.mean))
    }
}

/// `[B, N, 3·p·p]` to `[B, N, p·p·3]`.
fn channels_together(patches: &Tensor) -> Tensor {
    patches.unflatten(-1, [3, -1]).transpose(-1, -2).flatten(-2, -1)
}

/// The inverse.
fn channels_apart(patches: &Tensor) -> Tensor {
    patches.unflatten(-1, [-1, 3]).transpose(-1, -2).flatten(-2, -1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reconstruction shows every pixel where it was.
    #[test]
    fn images_survive_being_cut_and_normalised() {
        let images = Tensor::arange(2 * 3 * 8 * 12, (Kind::Float, Device::Cpu)).sin();
        let images = images.view([2, 3, 8, 12]);
        let patches = patchify(&images, 4);
        assert_eq!(patches.size(), [2, 6, 48]);
        assert!(unpatchify(&patches, 4, 2, 3).equal(&images));
        let normalised = NormalisedPixels::from_patches(&patches);
        let deviation = normalised.pixels.std_dim(-1, true, false);
        assert!((deviation - 1.0).abs().max().double_value(&[]) < 1e-3);
        let back = normalised.undo(&normalised.pixels);
        assert!((back - patches).abs().max().double_value(&[]) < 1e-5);
    }
}
