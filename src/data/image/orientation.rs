//! How viewers turn images: by the EXIF tag that cameras write.

use std::io::Cursor;

use anyhow::{Context, Result};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};
use serde::{Deserialize, Serialize};

use super::pixels::Image;

/// What is made of images that viewers turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exif {
    /// They stay as they are stored, as in most training pipelines.
    #[default]
    Ignore,
    /// They are turned, so that they are seen as in a viewer.
    Apply,
}

impl Exif {
    /// How the image in `encoded` is to be turned.
    pub(super) fn turn(self, encoded: &[u8]) -> Orientation {
        match self {
            Self::Ignore => Orientation::NoTransforms,
            Self::Apply => orientation(encoded),
        }
    }
}

/// How viewers turn the image: what its EXIF tag says, where it has one.
pub(crate) fn orientation(bytes: &[u8]) -> Orientation {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok();
    let decoder = reader.and_then(|reader| reader.into_decoder().ok());
    let orientation = decoder.and_then(|mut decoder| decoder.orientation().ok());
    match orientation.unwrap_or(Orientation::NoTransforms) {
        Orientation::NoTransforms => tagged(bytes).unwrap_or(Orientation::NoTransforms),
        turned => turned,
    }
}

/// What the EXIF tag says where `image` does not see it: a tag in four bytes, one behind a PNG's pixels.
fn tagged(bytes: &[u8]) -> Option<Orientation> {
    let mut reader = exif::Reader::new();
    // One damaged tag hides no other.
    reader.continue_on_error(true);
    let read = reader.read_from_container(&mut Cursor::new(bytes));
    let tags = read.or_else(|error| error.distill_partial_result(|_| ())).ok()?;
    let value = tags.get_field(exif::Tag::Orientation, exif::In::PRIMARY)?.value.get_uint(0)?;
    Orientation::from_exif(value.try_into().ok()?)
}

/// The image as it is seen.
///
/// # Errors
/// It is too large to be turned.
pub(crate) fn turned(image: Image, orientation: Orientation) -> Result<Image> {
    if orientation == Orientation::NoTransforms {
        return Ok(image);
    }
    let (width, height) = (u32::try_from(image.width)?, u32::try_from(image.height)?);
    let pixels = RgbImage::from_raw(width, height, image.pixels);
    let mut turned = DynamicImage::ImageRgb8(pixels.context("an image has another size")?);
    turned.apply_orientation(orientation);
    let (width, height) = (turned.width() as usize, turned.height() as usize);
    Ok(Image { width, height, pixels: turned.into_rgb8().into_raw() })
}
