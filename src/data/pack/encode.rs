//! How images are stored in shards.

use anyhow::Result;
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

use crate::image::CropBox;
use crate::image::central::shrink;
use crate::image::decode::{self, Image};
use crate::image::orientation::{orientation, turned};
use crate::image::resize::CropResizer;

/// Quality of re-encoded JPEGs.
const QUALITY: u8 = 92;

/// What is done to an image; as a default, nothing: its file goes into the shard as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Shrink images whose shorter side is larger than this, in pixels.
    pub shorter_side: Option<usize>,
    /// Cut images into as many tiles of about this side as fit.
    pub tile: Option<usize>,
    /// Largest image that is decoded, in pixels.
    pub max_pixels: u64,
}

impl Encoding {
    /// What `bytes` becomes: (encoded bytes, extension) of each tile, or of the whole image.
    pub(super) fn apply(&self, bytes: Vec<u8>) -> Result<Vec<(Vec<u8>, &'static str)>> {
        let mut image = Image::default();
        decode::decode(&bytes, self.max_pixels, &mut image)?;
        let mut changed = false;
        if let Some(side) = self.shorter_side.filter(|&s| s < image.width.min(image.height)) {
            image = shrink(&image, side)?;
            changed = true;
        }
        if changed || self.tile.is_some() {
            // Tags are not kept, so what viewers make of them is done here.
            image = turned(image, orientation(&bytes))?;
        }
        let tiles = self.tile.map_or(Vec::new(), |side| tiles(&image, side));
        if tiles.len() > 1 {
            return tiles.iter().map(|&tile| Ok((jpeg(&cut(&image, tile)?)?, "jpg"))).collect();
        }
        if changed {
            return Ok(vec![(jpeg(&image)?, "jpg")]);
        }
        let extension = decode::Encoding::detect(&bytes).map_or("jpg", decode::Encoding::extension);
        Ok(vec![(bytes, extension)])
    }
}

/// Equal boxes that cover the image, each at least `side` wide and high where it allows.
fn tiles(image: &Image, side: usize) -> Vec<CropBox> {
    let (columns, rows) = ((image.width / side).max(1), (image.height / side).max(1));
    let (width, height) = (image.width / columns, image.height / rows);
    let at = |row, column| CropBox { left: column * width, top: row * height, width, height };
    (0..rows).flat_map(|row| (0..columns).map(move |column| at(row, column))).collect()
}

fn cut(image: &Image, tile: CropBox) -> Result<Image> {
    let mut pixels = vec![0; tile.width * tile.height * 3];
    CropResizer::default().resize(image, tile, [tile.height, tile.width], &mut pixels)?;
    Ok(Image { width: tile.width, height: tile.height, pixels })
}

fn jpeg(image: &Image) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode(
        &image.pixels,
        u32::try_from(image.width)?,
        u32::try_from(image.height)?,
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}
