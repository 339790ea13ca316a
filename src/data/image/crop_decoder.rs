//! From an image's bytes to a resized crop, in memory that is reused from image to image.

use std::mem;

use anyhow::{Result, ensure};
use image::metadata::Orientation;
use serde::{Deserialize, Serialize};

use super::crop::CropBox;
use super::decode::{self, Encoding};
use super::jpeg::{Frame, JpegDecoder};
use super::jpeg_headers::has_end_of_image;
use super::orientation::{Exif, turned};
use super::pixels::{Image, check_size};
use super::resize::{CropResizer, check_box, is_height_first};

/// Decodes encoded images to resized crops; holds the memory for it, reused from image to
/// image.
#[derive(Debug, Default)]
pub struct CropDecoder {
    image: Image,
    jpeg: JpegDecoder,
    resizer: CropResizer,
}

/// What is the same for every image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CropOptions {
    /// Side of the resized square, in pixels.
    pub image_size: usize,
    /// An image of more pixels is refused before memory is taken for it.
    pub max_pixels: u64,
    /// Whether a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size where the crop stays at least
    /// twice as large as the result: faster, and off from Pillow's pixels by a little more.
    pub reduced_decoding: bool,
    /// What is made of images that viewers turn.
    pub exif: Exif,
}

impl CropDecoder {
    /// Fills `out` `[image_size, image_size, 3]` with a crop of the image in `encoded`. `choose` gets the
    /// image's width and height, and gives the box to cut.
    ///
    /// # Errors
    /// Unknown content, a damaged or truncated image, one that is too large, a box that is not
    /// in the image, or an `out` of another size.
    pub fn decode(
        &mut self,
        encoded: &[u8],
        options: &CropOptions,
        choose: impl FnOnce(usize, usize) -> CropBox,
        out: &mut [u8],
    ) -> Result<()> {
        let turn = options.exif.turn(encoded);
        if turn == Orientation::NoTransforms
            && Encoding::detect(encoded) == Some(Encoding::Jpeg)
            && let Some(frame) = Frame::read(encoded)
        {
            return decode::contain_panics(|| {
                self.decode_jpeg(encoded, frame, options, choose, out)
            });
        }
        let Self { image, resizer, .. } = self;
        decode::decode(encoded, options.max_pixels, image)?;
        *image = turned(mem::take(image), turn)?;
        let crop = choose(image.width, image.height);
        resizer.resize(image, crop, [options.image_size; 2], out)
    }

    /// Decodes the whole image in `encoded` and shows it to `see`, with a resizer for it.
    ///
    /// # Errors
    /// Unknown content, a damaged or truncated image, one of too many pixels, or the error of `see`.
    pub(super) fn decode_whole<T>(
        &mut self,
        encoded: &[u8],
        options: &CropOptions,
        see: impl FnOnce(&Image, &mut CropResizer) -> Result<T>,
    ) -> Result<T> {
        decode::decode(encoded, options.max_pixels, &mut self.image)?;
        self.image = turned(mem::take(&mut self.image), options.exif.turn(encoded))?;
        see(&self.image, &mut self.resizer)
    }

    fn decode_jpeg(
        &mut self,
        encoded: &[u8],
        mut frame: Frame,
        options: &CropOptions,
        choose: impl FnOnce(usize, usize) -> CropBox,
        out: &mut [u8],
    ) -> Result<()> {
        let Self { jpeg, resizer, .. } = self;
        check_size(frame.width, frame.height, options.max_pixels)?;
        ensure!(has_end_of_image(encoded), "truncated JPEG");
        let crop = choose(frame.width, frame.height);
        check_box(crop, frame.width, frame.height)?;
        if options.reduced_decoding {
            frame.reduction = reduction(crop, options.image_size);
        }
        let size = [options.image_size; 2];
        if is_height_first(crop, size) {
            // Columns are complete only when all is decoded.
            jpeg.decode(&frame, encoded, crop, true)?;
            return resizer.resize_samples(&jpeg.samples, &frame, crop, size, out);
        }
        resizer.resize_strips(&frame, crop, size, out, |take| {
            jpeg.decode_strips(&frame, encoded, crop, take)
        })
    }

    /// Bytes of memory held now; the caller drops a decoder that one huge image has grown.
    pub fn held_bytes(&self) -> usize {
        self.image.pixels.capacity() + self.jpeg.held_bytes() + self.resizer.held_bytes()
    }
}

/// The strongest reduction that leaves the crop at least twice as large as its result. With less
/// than that, the pixels' own lack of sharpness shows.
fn reduction(crop: CropBox, side: usize) -> usize {
    let enough = |reduction: &usize| crop.width.min(crop.height) >= side * reduction * 2;
    [8, 4, 2].into_iter().find(enough).unwrap_or(1)
}
