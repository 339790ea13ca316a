//! Central squares: what evaluation cuts from images.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::crop::CropBox;
use super::decode::{self, Image};
use super::geometry::Geometry;
use super::resize::CropResizer;

/// Decodes the image `file`, resizes its shorter side to `shorter_side` and cuts the central
/// square of `side` pixels: `[side, side, 3]`, as torchvision's `Resize` and `CenterCrop` on a
/// Pillow image (evaluation, and comparison with image processors).
///
/// # Errors
/// The file cannot be read or decoded, or `side` is larger than `shorter_side`.
pub fn load_central(
    file: &Path,
    shorter_side: usize,
    side: usize,
    max_pixels: u64,
) -> Result<Vec<u8>> {
    ensure!(side <= shorter_side, "a crop of {side} needs a resize to at least {side}");
    let mut image = Image::default();
    std::fs::read(file)
        .map_err(anyhow::Error::from)
        .and_then(|bytes| decode::decode(&bytes, max_pixels, &mut image))
        .with_context(|| file.display().to_string())?;
    let mut square = vec![0; side * side * 3];
    crop_central(&image, shorter_side, side, &mut CropResizer::default(), &mut square)?;
    Ok(square)
}

/// Resizes the shorter side of `image` to `shorter_side`, and fills `out` `[side, side, 3]` with
/// the central square of the result.
///
/// # Errors
/// `out` has another size, or `side` is larger than `shorter_side`.
pub fn crop_central(
    image: &Image,
    shorter_side: usize,
    side: usize,
    resizer: &mut CropResizer,
    out: &mut [u8],
) -> Result<()> {
    let Geometry { size, part, .. } =
        central_geometry((image.width, image.height), shorter_side, side);
    resizer.resize_part(image, size, part, out)
}

/// What [`crop_central`] cuts of an image of this width and height.
pub fn central_geometry(
    (width, height): (usize, usize),
    shorter_side: usize,
    side: usize,
) -> Geometry {
    let size = shrunk_size((width, height), shorter_side);
    let middle = |length: usize| (length.saturating_sub(side) as f64 / 2.0).round_ties_even();
    let (left, top) = (middle(size[1]) as usize, middle(size[0]) as usize);
    let crop = CropBox { left: 0, top: 0, width, height };
    Geometry { crop, size, part: CropBox { left, top, width: side, height: side } }
}

/// Height and width with `shorter_side` as the shorter one; the longer is rounded down.
fn shrunk_size((width, height): (usize, usize), shorter_side: usize) -> [usize; 2] {
    let short = width.min(height).max(1);
    [height, width].map(|length| shorter_side * length / short)
}

/// `image` resized so that its shorter side is `shorter_side`; the longer is rounded down.
pub fn shrink(image: &Image, shorter_side: usize) -> Result<Image> {
    let (width, height) = (image.width, image.height);
    let [new_height, new_width] = shrunk_size((width, height), shorter_side);
    let mut pixels = vec![0; new_width * new_height * 3];
    let whole = CropBox { left: 0, top: 0, width, height };
    CropResizer::default().resize(image, whole, [new_height, new_width], &mut pixels)?;
    Ok(Image { width: new_width, height: new_height, pixels })
}
