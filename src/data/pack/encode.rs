//! How pictures are stored in shards.

use anyhow::Result;
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

use crate::crop::{CropBox, shrink};
use crate::picture::{self, Picture};
use crate::resize::CropResizer;

/// Quality of re-encoded JPEGs.
const QUALITY: u8 = 92;

/// What is done to a picture; as a default, nothing: its file goes into the shard as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Shrink pictures whose shorter side is larger than this, in pixels.
    pub shorter_side: Option<usize>,
    /// Cut pictures into as many tiles of about this side as fit.
    pub tile: Option<usize>,
    /// Largest picture that is decoded, in pixels.
    pub max_pixels: u64,
}

impl Encoding {
    /// What `bytes` becomes: (encoded bytes, extension) of each tile, or of the whole picture.
    ///
    /// # Errors
    /// The picture does not decode.
    pub(super) fn apply(&self, bytes: Vec<u8>) -> Result<Vec<(Vec<u8>, &'static str)>> {
        let mut picture = Picture::default();
        picture::decode(&bytes, self.max_pixels, &mut picture)?;
        let mut changed = false;
        if let Some(side) = self.shorter_side.filter(|&s| s < picture.width.min(picture.height)) {
            picture = shrink(&picture, side)?;
            changed = true;
        }
        let tiles = self.tile.map_or(Vec::new(), |side| tiles(&picture, side));
        if tiles.len() > 1 {
            return tiles.iter().map(|&tile| Ok((jpeg(&cut(&picture, tile)?)?, "jpg"))).collect();
        }
        if changed {
            return Ok(vec![(jpeg(&picture)?, "jpg")]);
        }
        let extension = picture::Encoding::of(&bytes).map_or("jpg", picture::Encoding::extension);
        Ok(vec![(bytes, extension)])
    }
}

/// Equal boxes that cover the picture, each at least `side` wide and high where it allows.
fn tiles(picture: &Picture, side: usize) -> Vec<CropBox> {
    let (columns, rows) = ((picture.width / side).max(1), (picture.height / side).max(1));
    let (width, height) = (picture.width / columns, picture.height / rows);
    let at = |row, column| CropBox { left: column * width, top: row * height, width, height };
    (0..rows).flat_map(|row| (0..columns).map(move |column| at(row, column))).collect()
}

fn cut(picture: &Picture, tile: CropBox) -> Result<Picture> {
    let mut pixels = vec![0; tile.width * tile.height * 3];
    CropResizer::default().resize(picture, tile, [tile.height, tile.width], &mut pixels)?;
    Ok(Picture { width: tile.width, height: tile.height, pixels })
}

fn jpeg(picture: &Picture) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY).encode(
        &picture.pixels,
        u32::try_from(picture.width)?,
        u32::try_from(picture.height)?,
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}
