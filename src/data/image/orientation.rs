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
        Orientation::NoTransforms => {
            tagged(bytes).or_else(|| in_text(bytes)).unwrap_or(Orientation::NoTransforms)
        }
        turned => turned,
    }
}

/// What the EXIF tag says where `image` does not see it: a tag in four bytes, one behind a PNG's pixels.
fn tagged(bytes: &[u8]) -> Option<Orientation> {
    let mut reader = exif::Reader::new();
    // One damaged tag hides no other.
    reader.continue_on_error(true);
    told_by(reader.read_from_container(&mut Cursor::new(bytes)))
}

/// What tags say that were read.
fn told_by(read: Result<exif::Exif, exif::Error>) -> Option<Orientation> {
    let tags = read.or_else(|error| error.distill_partial_result(|_| ())).ok()?;
    let value = tags.get_field(exif::Tag::Orientation, exif::In::PRIMARY)?.value.get_uint(0)?;
    Orientation::from_exif(value.try_into().ok()?)
}

/// What the keyword of a PNG's text begins with that is a profile in hexadecimal, as ImageMagick writes EXIF tags.
const PROFILE: &str = "Raw profile type ";

/// What the EXIF tag says that stands in a text of a PNG.
fn in_text(bytes: &[u8]) -> Option<Orientation> {
    // To read a PNG's texts is to read all of it.
    let has_profile = || bytes.windows(PROFILE.len()).any(|bytes| bytes == PROFILE.as_bytes());
    if !bytes.starts_with(b"\x89PNG") || !has_profile() {
        return None;
    }
    let mut png = png::Decoder::new(Cursor::new(bytes)).read_info().ok()?;
    // Texts before a damaged place are there all the same.
    _ = png.finish();
    let info = png.info();
    let plain = info.uncompressed_latin1_text.iter();
    let plain = plain.map(|text| (&text.keyword, Some(text.text.clone())));
    let packed = info.compressed_latin1_text.iter();
    let packed = packed.map(|text| (&text.keyword, text.get_text().ok()));
    let long = info.utf8_text.iter().map(|text| (&text.keyword, text.get_text().ok()));
    let profiles = plain.chain(packed).chain(long);
    let mut tags = profiles
        .filter(|(keyword, _)| keyword.starts_with(PROFILE))
        .filter_map(|(_, text)| of_hexadecimal(&text?));
    tags.find_map(|tags| {
        let mut reader = exif::Reader::new();
        reader.continue_on_error(true);
        told_by(reader.read_raw(tags))
    })
}

/// The bytes of a profile: its name, the number of bytes, and these in lines.
fn of_hexadecimal(profile: &str) -> Option<Vec<u8>> {
    let digits: String = profile.split_ascii_whitespace().skip(2).collect();
    let bytes = digits.as_bytes().as_chunks::<2>().0.iter();
    let bytes = bytes.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
    Some(bytes.strip_prefix(b"Exif\0\0").map_or_else(|| bytes.clone(), <[u8]>::to_vec))
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
