//! Images as data that stands in a page.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::{RgbImage, imageops};

/// Side of a sheet of thumbnails, in pixels: what every browser decodes.
const SHEET: u32 = 2048;
/// Quality of JPEGs, of 100.
const QUALITY: u8 = 82;

/// Thumbnails of one size, side by side on sheets.
pub struct Sheets {
    /// Side of a thumbnail, in pixels.
    pub side: u32,
    /// Thumbnails in a row of a sheet.
    pub columns: u32,
    /// Addresses of the sheets, each the JPEG itself.
    pub urls: Vec<String>,
    /// The mean colour of each thumbnail: red, green and blue.
    pub colours: Vec<u8>,
}

impl Sheets {
    /// Lays out square thumbnails of one size, row by row.
    ///
    /// # Errors
    /// A sheet cannot be encoded.
    pub fn of(thumbnails: &[RgbImage]) -> Result<Self> {
        let side = thumbnails.first().map_or(1, RgbImage::width);
        let columns = SHEET / side;
        let on_a_sheet = (columns * columns) as usize;
        let draw = |some: &[RgbImage]| {
            let rows = (some.len() as u32).div_ceil(columns);
            let width = columns.min(some.len() as u32) * side;
            let mut sheet = RgbImage::new(width, rows * side);
            for (place, thumbnail) in (0..).zip(some) {
                let (x, y) = (place % columns * side, place / columns * side);
                imageops::replace(&mut sheet, thumbnail, x.into(), y.into());
            }
            jpeg_url(&sheet)
        };
        let urls = thumbnails.chunks(on_a_sheet).map(draw).collect::<Result<_>>()?;
        let colours = thumbnails.iter().flat_map(mean_colour).collect();
        Ok(Self { side, columns, urls, colours })
    }
}

/// An image as an address that holds it.
///
/// # Errors
/// It cannot be encoded.
pub fn jpeg_url(image: &RgbImage) -> Result<String> {
    let mut encoded = Vec::new();
    JpegEncoder::new_with_quality(&mut encoded, QUALITY)
        .encode_image(image)
        .context("cannot encode an image of the page")?;
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(&encoded)))
}

fn mean_colour(image: &RgbImage) -> [u8; 3] {
    let count = image.pixels().len().max(1) as u64;
    [0, 1, 2].map(|channel| {
        let sum: u64 = image.pixels().map(|pixel| u64::from(pixel.0[channel])).sum();
        (sum / count) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    /// Every thumbnail is where the page looks for it, also on the second sheet and in a row that is not full.
    #[test]
    fn thumbnails_are_found_at_their_places() {
        let count = 1024 + 35;
        let colour = |place: usize| [(place % 16 * 16) as u8, (place / 16 % 16 * 16) as u8, 128];
        let thumbnails: Vec<RgbImage> =
            (0..count).map(|place| RgbImage::from_pixel(64, 64, Rgb(colour(place)))).collect();
        let sheets = Sheets::of(&thumbnails).unwrap();
        assert_eq!((sheets.side, sheets.columns, sheets.urls.len()), (64, 32, 2));
        let decoded = sheets.urls.iter().map(|url| {
            let bytes = STANDARD.decode(url.split_once(',').unwrap().1).unwrap();
            image::load_from_memory(&bytes).unwrap().to_rgb8()
        });
        let decoded: Vec<RgbImage> = decoded.collect();
        assert_eq!(decoded[1].dimensions(), (2048, 128));
        for place in [0, 31, 32, 1023, 1024, 1058] {
            let on_sheet = (place % 1024) as u32;
            let (x, y) = (on_sheet % 32 * 64, on_sheet / 32 * 64);
            for (x, y) in [(x, y), (x + 63, y + 63)] {
                let found = decoded[place / 1024].get_pixel(x, y).0;
                let off = found.iter().zip(colour(place)).map(|(a, b)| a.abs_diff(b)).max();
                assert!(off < Some(8), "{place}: {found:?}");
            }
            assert_eq!(sheets.colours[3 * place..3 * place + 3], colour(place));
        }
    }
}
