//! Encoded images to 8-bit RGB pixels, as Pillow's `open(...).convert("RGB")` gives them.
//!
//! The decoder is chosen by content, not by name. Transparency is dropped, 16-bit channels keep
//! their high byte, palettes and grey become RGB, animations give their first image, and an
//! EXIF rotation is ignored. An image that ends early fails, as it does in Pillow.

use std::cell::Cell;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use anyhow::{Result, anyhow, bail, ensure};
use image::codecs::{png::PngDecoder, webp::WebPDecoder};
use image::{ColorType, ImageDecoder, Limits};

pub use super::pixels::Image;
use super::pixels::check_size;
use super::turbo::decode_jpeg;

/// Encodings that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Jpeg,
    Png,
    WebP,
}

impl Encoding {
    /// What `bytes` begin with, if it is known.
    pub fn detect(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', ..] => Some(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            _ => None,
        }
    }

    /// The usual extension of files so encoded.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::WebP => "webp",
        }
    }
}

/// Decodes `bytes` into `image`. Its size is read first, and an image of more than
/// `max_pixels` pixels is refused before memory is taken for it.
///
/// # Errors
/// Unknown content, a damaged or truncated image, or one that is too large. A decoder's panic
/// is an error as well.
pub fn decode(bytes: &[u8], max_pixels: u64, image: &mut Image) -> Result<()> {
    match Encoding::detect(bytes) {
        Some(Encoding::Jpeg) => contain_panics(|| decode_jpeg(bytes, max_pixels, image)),
        Some(Encoding::Png) => contain_panics(|| {
            let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits(max_pixels))?;
            decode_other(decoder, max_pixels, image)
        }),
        Some(Encoding::WebP) => contain_panics(|| {
            // The decoder does not look further than an animation's first image.
            let riff_size = bytes[4..8].try_into().map_or(0, u32::from_le_bytes);
            ensure!(bytes.len() as u64 >= u64::from(riff_size) + 8, "truncated WebP");
            check_webp_frames(bytes, max_pixels)?;
            decode_other(WebPDecoder::new(Cursor::new(bytes))?, max_pixels, image)
        }),
        None if bytes.is_empty() => bail!("empty file"),
        None => bail!("{}, not a JPEG, PNG or WebP image", other_kind(bytes)),
    }
}

/// What else `bytes` seem to be.
fn other_kind(bytes: &[u8]) -> &'static str {
    const KINDS: [(&[u8], &str); 9] = [
        (b"GIF8", "a GIF"),
        (b"BM", "a BMP"),
        (b"II*\0", "a TIFF"),
        (b"MM\0*", "a TIFF"),
        (b"\0\0\0\x0cjP", "a JPEG 2000"),
        (b"\xff\x0a", "a JPEG XL"),
        (b"\0\0\0\x0cJXL", "a JPEG XL"),
        (b"version https://git-lfs", "a Git LFS pointer"),
        (b"<", "a text, perhaps a web page"),
    ];
    let known = KINDS.iter().find(|(beginning, _)| bytes.starts_with(beginning));
    match (known, bytes.get(4..12)) {
        (Some((_, kind)), _) => kind,
        (None, Some([b'f', b't', b'y', b'p', rest @ ..])) => match rest {
            b"avif" | b"avis" => "an AVIF",
            b"heic" | b"heix" | b"mif1" => "a HEIC",
            _ => "a video",
        },
        _ => "something else",
    }
}

/// A lossy WebP frame is decoded at the size in its own header before that is found to be another
/// than the image's, so each frame's size has to be checked as well.
fn check_webp_frames(bytes: &[u8], max_pixels: u64) -> Result<()> {
    let check = |(kind, content): (&[u8], &[u8])| match (kind, content) {
        (b"VP8 ", &[_, _, _, _, _, _, w0, w1, h0, h1, ..]) => {
            let length = |bytes| usize::from(u16::from_le_bytes(bytes) & 0x3fff);
            check_size(length([w0, w1]), length([h0, h1]), max_pixels)
        }
        _ => Ok(()),
    };
    for (kind, content) in webp_chunks(&bytes[12..]) {
        check((kind, content))?;
        if kind == b"ANMF" {
            // Behind 16 bytes about the frame: its transparency, if it has any, and its pixels.
            webp_chunks(content.get(16..).unwrap_or_default()).take(2).try_for_each(check)?;
        }
    }
    Ok(())
}

/// The chunks in `bytes`: four letters, and all bytes from where the content begins.
fn webp_chunks(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (kind, rest) = bytes.split_at_checked(4)?;
        let (length, content) = rest.split_first_chunk()?;
        let length = (u32::from_le_bytes(*length) as usize).next_multiple_of(2);
        bytes = content.get(length..).unwrap_or_default();
        Some((kind, content))
    })
}

fn limits(max_pixels: u64) -> Limits {
    let mut limits = Limits::no_limits();
    // Eight bytes hold any pixel; the rest is for rows and metadata.
    limits.max_alloc = Some(max_pixels.saturating_mul(8).saturating_add(16 << 20));
    limits
}

fn decode_other(decoder: impl ImageDecoder, max_pixels: u64, image: &mut Image) -> Result<()> {
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check_size(width, height, max_pixels)?;
    let color = decoder.color_type();
    (image.width, image.height) = (width, height);
    image.pixels.resize(width * height * 3, 0);
    if color == ColorType::Rgb8 {
        return Ok(decoder.read_image(&mut image.pixels)?);
    }
    let mut raw = vec![0; usize::try_from(decoder.total_bytes())?];
    decoder.read_image(&mut raw)?;
    to_rgb(&raw, color, &mut image.pixels)
}

/// Keeps red, green and blue, or grey three times; of two-byte channels, the high byte.
fn to_rgb(raw: &[u8], color: ColorType, rgb: &mut [u8]) -> Result<()> {
    let channels = usize::from(color.channel_count());
    let stride = usize::from(color.bytes_per_pixel());
    let channel_bytes = stride / channels;
    ensure!(channel_bytes <= 2, "{color:?} pixels are not known");
    let high = if cfg!(target_endian = "little") { channel_bytes - 1 } else { 0 };
    let places = if channels < 3 { [high; 3] } else { [0, 1, 2].map(|c| c * channel_bytes + high) };
    for (to, from) in rgb.chunks_exact_mut(3).zip(raw.chunks_exact(stride)) {
        to.copy_from_slice(&places.map(|place| from[place]));
    }
    Ok(())
}

thread_local! {
    static DECODING: Cell<bool> = const { Cell::new(false) };
}

/// Runs a decoder; if it panics on a malformed image, that is this image's error and nothing
/// is printed.
pub(super) fn contain_panics(decode: impl FnOnce() -> Result<()>) -> Result<()> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !DECODING.get() {
                report(info);
            }
        }));
    });
    DECODING.set(true);
    let result = catch_unwind(AssertUnwindSafe(decode));
    DECODING.set(false);
    result.unwrap_or_else(|_| Err(anyhow!("the decoder gave up on a malformed image")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_a_decoder_is_an_error() {
        let error = contain_panics(|| panic!("index out of bounds")).unwrap_err();
        assert!(error.to_string().contains("malformed"), "{error}");
        assert!(!DECODING.get());
    }

    #[test]
    fn every_pixel_layout_becomes_rgb() {
        let convert = |raw: &[u8], color| {
            let mut rgb = [0; 3];
            to_rgb(raw, color, &mut rgb).map(|()| rgb)
        };
        let wide = |values: &[u16]| values.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<_>>();
        assert_eq!(convert(&[7], ColorType::L8).unwrap(), [7; 3]);
        assert_eq!(convert(&[7, 0], ColorType::La8).unwrap(), [7; 3]);
        assert_eq!(convert(&[1, 2, 3, 0], ColorType::Rgba8).unwrap(), [1, 2, 3]);
        assert_eq!(convert(&wide(&[0x1234]), ColorType::L16).unwrap(), [0x12; 3]);
        assert_eq!(convert(&wide(&[0x0100, 0x02ff, 0x0301]), ColorType::Rgb16).unwrap(), [1, 2, 3]);
        assert!(convert(&[0; 12], ColorType::Rgb32F).is_err());
    }
}
