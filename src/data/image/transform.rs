//! The transform of an image: a random crop for training, the central square for evaluation.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::central::{central_geometry, crop_central};
use super::crop::{CropBox, CropRange};
use super::crop_decoder::{CropDecoder, CropOptions};
use super::decode::Image;
use super::dense_transform::DenseTransform;
use super::geometry::Geometry;

/// The transform of every image of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Transform {
    /// A crop that is drawn by seed and position.
    Random { seed: u64, range: CropRange },
    /// The central square after the shorter side was resized to it, as torchvision's `Resize` and
    /// `CenterCrop` make it of a Pillow image; decoded at full size whatever the options say.
    Central { measure: bool },
    /// What dense evaluations cut of an image and its target.
    Dense(DenseTransform),
}

/// The size of an image, and what was measured while it was decoded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ImageStats {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Mean over red, green and blue of the entropy of the levels of all pixels, in bits: 0 of one
    /// colour, 8 of noise. Where it was asked for.
    pub histogram_entropy: Option<f64>,
}

impl Transform {
    /// Whether every sample is seen once, in its order, and nothing is drawn at random.
    pub fn is_for_evaluation(&self) -> bool {
        match self {
            Self::Random { .. } => false,
            Self::Central { .. } => true,
            Self::Dense(_) => self.is_whole(),
        }
    }

    /// Width and height of what a whole sample shows of an image of this width and height.
    pub fn seen(&self, size: (usize, usize)) -> (usize, usize) {
        match self {
            Self::Dense(DenseTransform { bounds: Some(bounds), .. }) => {
                (bounds.width, bounds.height)
            }
            _ => size,
        }
    }

    /// Whether a sample is all of an image, whatever its size.
    pub fn is_whole(&self) -> bool {
        matches!(self, Self::Dense(DenseTransform { cut: None, .. }))
    }

    /// Pixels that a sample has room for, given the side of a square one.
    pub fn pixels(&self, image_size: usize) -> usize {
        match self {
            Self::Dense(dense) => dense.pixels(image_size),
            _ => image_size * image_size,
        }
    }

    /// Fills `out` `[image_size, image_size, 3]` with what is made of the image in `encoded`, which stands at
    /// `position` of the stream of samples.
    pub fn make(
        &self,
        decoder: &mut CropDecoder,
        options: &CropOptions,
        position: u64,
        encoded: &[u8],
        out: &mut [u8],
    ) -> Result<ImageStats> {
        match *self {
            Self::Random { seed, range } => {
                let (mut width, mut height) = (0, 0);
                let choose = |image_width, image_height| {
                    (width, height) = (image_width, image_height);
                    range.draw_at(seed, position, width, height)
                };
                decoder.decode(encoded, options, choose, out)?;
                ImageStats::new(width, height, None)
            }
            Self::Central { measure } => {
                decoder.decode_whole(encoded, options, |image, resizer| {
                    crop_central(image, options.image_size, options.image_size, resizer, out)?;
                    let entropy = measure.then(|| histogram_entropy(image));
                    ImageStats::new(image.width, image.height, entropy)
                })
            }
            Self::Dense(dense) => decoder.decode_whole(encoded, options, |image, resizer| {
                let size = (image.width, image.height);
                let geometry = dense.geometry(position, size, options.image_size)?;
                geometry.cut_image(image, resizer, out)?;
                ImageStats::new(image.width, image.height, None)
            }),
        }
    }

    /// Columns and rows of a sample: for each the one of its image, of this width and height, that it
    /// shows, where it shows any. [`Self::make`] cuts the image so.
    ///
    /// # Errors
    /// The image has not what is to be cut of it.
    pub fn sources(
        &self,
        position: u64,
        size: (usize, usize),
        image_size: usize,
    ) -> Result<[Vec<Option<usize>>; 2]> {
        let geometry = match *self {
            Self::Random { seed, range } => {
                let whole = CropBox { left: 0, top: 0, width: image_size, height: image_size };
                let crop = range.draw_at(seed, position, size.0, size.1);
                Geometry { crop, size: [image_size; 2], part: whole }
            }
            Self::Central { .. } => central_geometry(size, image_size, image_size),
            Self::Dense(dense) => {
                let geometry = dense.geometry(position, size, image_size)?;
                return Ok([geometry.sources(0), geometry.sources(1)]);
            }
        };
        let (columns, rows) = (geometry.columns(), geometry.rows());
        let inside = columns.end_source() <= size.0 && rows.end_source() <= size.1;
        ensure!(inside, "{:?} is not in the image", geometry.crop);
        Ok([columns, rows].map(|line| line.nearest().map(Some).collect()))
    }
}

impl ImageStats {
    /// Width and height in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.width as usize, self.height as usize)
    }

    fn new(width: usize, height: usize, histogram_entropy: Option<f64>) -> Result<Self> {
        let (width, height) = (u32::try_from(width)?, u32::try_from(height)?);
        Ok(Self { width, height, histogram_entropy })
    }
}

/// Mean over the channels of the Shannon entropy of their 256 levels, in bits.
fn histogram_entropy(image: &Image) -> f64 {
    let mut counts = [[0u64; 256]; 3];
    for pixel in image.pixels.as_chunks::<3>().0 {
        for (counts, &level) in counts.iter_mut().zip(pixel) {
            counts[usize::from(level)] += 1;
        }
    }
    let pixels = (image.pixels.len() / 3) as f64;
    let bits = |&count: &u64| {
        let share = count as f64 / pixels;
        if count == 0 { 0.0 } else { -share * share.log2() }
    };
    counts.iter().flatten().map(bits).sum::<f64>() / 3.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use distill_base::draws::{Draws, Purpose};

    fn entropy(pixels: impl IntoIterator<Item = [u8; 3]>) -> f64 {
        let pixels: Vec<u8> = pixels.into_iter().flatten().collect();
        histogram_entropy(&Image { width: pixels.len() / 3, height: 1, pixels })
    }

    /// The numbers by which web images are told from icons and plain backgrounds.
    #[test]
    fn entropies_of_known_images() {
        assert_eq!(entropy([[90; 3]; 500]), 0.0);
        let halves = entropy((0..1000).map(|i| if i < 500 { [0, 7, 3] } else { [255, 8, 9] }));
        assert!((halves - 1.0).abs() < 1e-12, "{halves}");
        // One channel of two levels, one of four, one of one.
        let mixed = entropy((0..1000).map(|i: u32| [(i % 2) as u8, (i % 4) as u8, 50]));
        assert!((mixed - 1.0).abs() < 1e-12, "{mixed}");
        let all = entropy((0..=255).map(|level| [level, 255 - level, level ^ 77]));
        assert!((all - 8.0).abs() < 1e-12, "{all}");
        let mut draws = Draws::new(1, Purpose::Crop, 0, 0);
        let noise = entropy((0..200_000).map(|_| [0; 3].map(|_: u8| draws.bits() as u8)));
        assert!((7.99..8.0).contains(&noise), "{noise}");
    }
}
