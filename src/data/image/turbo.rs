//! Whole JPEGs of every kind, by libjpeg-turbo: progressive, with a scan for each colour, arithmetic coding, CMYK,
//! any sampling.

use anyhow::{Result, anyhow};
use turbojpeg::{Colorspace, Decompressor, PixelFormat};

use super::jpeg_headers::prepared;
use super::jpeg_scans::check_scans;
use super::pixels::{Image, check_size};

/// More scans than encoders make: each is a pass over all pixels, and a file of a kilobyte may have hundreds.
const MOST_SCANS: u32 = 500;

/// What libjpeg warns of, and yet has all pixels: bytes between two scans, and the like. Its other warnings mean
/// that the data end early or are damaged, and that it made pixels up.
const HARMLESS: [&str; 4] = [
    "extraneous bytes before marker",
    "Inconsistent progression sequence",
    "Invalid SOS parameters",
    "bad ICC marker",
];

/// Decodes the JPEG in `bytes` into `image`.
///
/// # Errors
/// It is damaged, ends early, or is larger than `max_pixels`.
pub(super) fn decode_jpeg(bytes: &[u8], max_pixels: u64, image: &mut Image) -> Result<()> {
    let bytes = &*prepared(bytes);
    let said = |error: turbojpeg::Error| match error {
        turbojpeg::Error::TurboJpegError(text) => anyhow!("JPEG: {}", reason(&text)),
        other => anyhow!("JPEG: {other}"),
    };
    let mut decoder = Decompressor::new().map_err(said)?;
    decoder.set_scan_limit(MOST_SCANS).map_err(said)?;
    let header = decoder.read_header(bytes).map_err(said)?;
    let (width, height) = (header.width, header.height);
    check_size(width, height, max_pixels)?;
    // What is missing would be filled up with grey.
    check_scans(bytes)?;
    (image.width, image.height) = (width, height);
    image.pixels.resize(width * height * 3, 0);
    let is_cmyk = matches!(header.colorspace, Colorspace::CMYK | Colorspace::YCCK);
    let mut decode = |format: PixelFormat, pixels: &mut [u8]| {
        let pitch = width * format.size();
        let output = turbojpeg::Image { pixels, width, pitch, height, format };
        match decoder.decompress(bytes, output) {
            Err(turbojpeg::Error::TurboJpegError(text))
                if HARMLESS.iter().any(|harmless| text.contains(harmless)) =>
            {
                Ok(())
            }
            outcome => outcome.map_err(said),
        }
    };
    if !is_cmyk {
        return decode(PixelFormat::RGB, &mut image.pixels);
    }
    let mut inks = vec![0; width * height * 4];
    decode(PixelFormat::CMYK, &mut inks)?;
    for (rgb, &inks) in image.pixels.as_chunks_mut().0.iter_mut().zip(inks.as_chunks().0) {
        *rgb = rgb_of_inks(inks);
    }
    Ok(())
}

/// Red, green and blue of paper that is as bright as each ink leaves it, as Adobe stores inks and Pillow mixes
/// them.
fn rgb_of_inks([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    [c, m, y].map(|ink| {
        let product = u32::from(255 - ink) * u32::from(k) + 128;
        k.saturating_sub(((product + (product >> 8)) >> 8) as u8)
    })
}

/// libjpeg's words without its layer names.
fn reason(text: &str) -> &str {
    text.rsplit_once("(): ").map_or(text, |(_, reason)| reason)
}
