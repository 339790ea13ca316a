//! Images with the patches marked that an encoder does not see.

use image::RgbImage;
use tch::{Kind, Tensor};

/// Grey that stands for a masked patch.
const MASKED: u8 = 128;

/// `images` `[B, H, W, 3]` with plain grey in the place of the patches that are `masked`: 1 for
/// those, else 0, `[B, N]` for a square grid of N patches.
///
/// # Panics
/// Where libtorch fails.
pub fn greyed(images: &Tensor, masked: &Tensor) -> Tensor {
    let (batch, image_size) = (images.size()[0], images.size()[1]);
    let grid_size = (masked.size()[1] as u64).isqrt() as i64;
    let per_pixel = masked
        .view([batch, 1, grid_size, grid_size])
        .upsample_nearest2d([image_size, image_size], None, None)
        .permute([0, 2, 3, 1])
        .to_kind(Kind::Bool);
    images.masked_fill(&per_pixel, i64::from(MASKED))
}

/// `crop` with little left of all patches but `kept`, sorted indices into the row-by-row grid of
/// patches of `patch_size` × `patch_size` pixels.
pub fn dimmed(crop: &RgbImage, patch_size: u32, kept: &[i64]) -> RgbImage {
    let per_row = crop.width() / patch_size;
    let mut seen = crop.clone();
    for (x, y, pixel) in seen.enumerate_pixels_mut() {
        let number = i64::from(y / patch_size * per_row + x / patch_size);
        if kept.binary_search(&number).is_err() {
            // A shade between those of dark and of bright images.
            pixel.0 = pixel.0.map(|value| 96 + value / 4);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;
    use tch::Device;

    /// Both mark the same patches: the second of the first row, and the first of the second one.
    #[test]
    fn masked_patches_and_no_others_are_marked() {
        let images = Tensor::zeros([1, 4, 4, 3], (Kind::Uint8, Device::Cpu));
        let masked = Tensor::from_slice(&[0f32, 1., 1., 0.]).view([1, 4]);
        let greyed = Vec::<u8>::try_from(greyed(&images, &masked).flatten(0, -1)).unwrap();
        let dimmed = dimmed(&RgbImage::from_pixel(4, 4, Rgb([0; 3])), 2, &[0, 3]);
        for (index, (pixel, &byte)) in greyed.chunks(3).zip(dimmed.iter().step_by(3)).enumerate() {
            let (x, y) = (index % 4, index / 4);
            let is_masked = (x < 2) != (y < 2);
            assert_eq!(pixel, [if is_masked { MASKED } else { 0 }; 3], "greyed at {x}, {y}");
            assert_eq!(byte, if is_masked { 96 } else { 0 }, "dimmed at {x}, {y}");
        }
    }
}
