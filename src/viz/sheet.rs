//! Images of one size in rows and columns, as one PNG.

use anyhow::{Context, Result, bail};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, Rgb, RgbImage, imageops};
use tch::Tensor;

use crate::native::guard;

/// White between the images of a sheet, in pixels.
const GAP: u32 = 4;

/// A sheet of images of one size, white where none was put.
#[derive(Debug)]
pub struct Sheet {
    canvas: RgbImage,
    /// Width and height of an image, in pixels.
    image: (u32, u32),
}

impl Sheet {
    /// A white sheet with room for `rows` × `columns` images of this width and height in pixels.
    /// There is at least one row and one column.
    pub fn new(rows: u32, columns: u32, image: (u32, u32)) -> Self {
        let extent = |count: u32, side: u32| count.max(1) * (side + GAP) - GAP;
        let (width, height) = (extent(columns, image.0), extent(rows, image.1));
        Self { canvas: RgbImage::from_pixel(width, height, Rgb([255; 3])), image }
    }

    /// Puts `image` at `row` and `column`, both from 0; what lies outside the sheet is cut off.
    pub fn put(&mut self, row: u32, column: u32, image: &RgbImage) {
        let place = |number: u32, side: u32| i64::from(number) * i64::from(side + GAP);
        let (left, top) = (place(column, self.image.0), place(row, self.image.1));
        imageops::replace(&mut self.canvas, image, left, top);
    }

    /// Width and height of the whole sheet, in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.canvas.dimensions()
    }

    /// The sheet as the bytes of a PNG.
    ///
    /// # Errors
    /// The sheet is larger than a PNG may be.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let mut encoded = Vec::new();
        let (width, height) = self.size();
        PngEncoder::new(&mut encoded)
            .write_image(&self.canvas, width, height, ExtendedColorType::Rgb8)
            .with_context(|| format!("cannot encode a sheet of {width}×{height} pixels"))?;
        Ok(encoded)
    }
}

/// A sheet of columns of images `[B, H, W, 3]` uint8, as the bytes of a PNG.
///
/// # Errors
/// The sheet is larger than a PNG may be, or libtorch fails.
pub fn sheet_of_columns(columns: &[Tensor]) -> Result<Vec<u8>> {
    let first = columns.first().context("a sheet has a column")?;
    let &[rows, height, width, _] = &first.size()[..] else { bail!("images are [B, H, W, 3]") };
    let (height, width) = (height as u32, width as u32);
    let mut sheet = Sheet::new(rows as u32, columns.len() as u32, (width, height));
    let bytes_of_one = (height * width * 3) as usize;
    for (column, images) in (0..).zip(columns) {
        let bytes: Vec<u8> = guard(|| Ok(Vec::try_from(images.flatten(0, -1))?))?;
        for (row, image) in (0..).zip(bytes.chunks_exact(bytes_of_one)) {
            let image = RgbImage::from_raw(width, height, image.to_vec());
            sheet.put(row, column, &image.unwrap_or_default());
        }
    }
    sheet.to_png()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects images that are not square, and places that stay empty: each pixel of the PNG is
    /// that of its image, or white.
    #[test]
    fn every_pixel_is_its_image_s_or_white() {
        let mut sheet = Sheet::new(2, 2, (3, 5));
        sheet.put(0, 1, &RgbImage::from_pixel(3, 5, Rgb([10, 20, 30])));
        sheet.put(1, 0, &RgbImage::from_pixel(3, 5, Rgb([40, 50, 60])));
        assert_eq!(sheet.size(), (3 + 4 + 3, 5 + 4 + 5));
        let read = image::load_from_memory(&sheet.to_png().unwrap()).unwrap().to_rgb8();
        assert_eq!(read.dimensions(), sheet.size());
        for (x, y, pixel) in read.enumerate_pixels() {
            let expected = match (x, y) {
                (7.., ..5) => [10, 20, 30],
                (..3, 9..) => [40, 50, 60],
                _ => [255; 3],
            };
            assert_eq!(pixel.0, expected, "{x}, {y}");
        }
    }
}
