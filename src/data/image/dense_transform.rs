//! What dense evaluations make of an image and its target: a random square of it for training, all of
//! it for test. Nothing is resized but where a scale is drawn, so that metric depth stays true.

use anyhow::{Result, ensure};
use distill_base::draws::{Draws, Purpose};
use serde::{Deserialize, Serialize};

use super::crop::CropBox;
use super::decode::Image;
use super::resize::CropResizer;

/// The transform of a dense evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DenseTransform {
    /// What is seen of an image at all; none: all of it.
    pub bounds: Option<CropBox>,
    /// How a training sample is cut; none: the whole image, as it is.
    pub cut: Option<DenseCut>,
    /// Pixels of the largest sample.
    pub most_pixels: usize,
}

/// A random square, mirrored half of the times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DenseCut {
    pub seed: u64,
    /// The longer side is drawn between these multiples of itself; none: it stays.
    pub scale: Option<[f64; 2]>,
}

/// What is cut of one image, for all of its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenseGeometry {
    /// In pixels of the image.
    pub bounds: CropBox,
    /// Width and height that the bounds are resized to.
    pub size: [usize; 2],
    /// First column and row of the result in what was resized.
    pub left: usize,
    pub top: usize,
    /// Width and height of the result; beyond what was resized there is nothing.
    pub out: [usize; 2],
    pub mirrored: bool,
}

impl DenseTransform {
    /// What is cut of an image of this width and height at `position` of the stream: of a training
    /// sample a square of `side`.
    ///
    /// # Errors
    /// The bounds are not in the image, or it is smaller than a square that nothing fills up.
    pub fn geometry(
        &self,
        position: u64,
        (width, height): (usize, usize),
        side: usize,
    ) -> Result<DenseGeometry> {
        let whole = CropBox { left: 0, top: 0, width, height };
        let bounds = self.bounds.unwrap_or(whole);
        ensure!(
            bounds.left + bounds.width <= width && bounds.top + bounds.height <= height,
            "{width}×{height} pixels; expected at least {}×{}, of which a part is seen",
            bounds.left + bounds.width,
            bounds.top + bounds.height
        );
        let seen = [bounds.width, bounds.height];
        let Some(cut) = &self.cut else {
            return Ok(DenseGeometry {
                bounds,
                size: seen,
                left: 0,
                top: 0,
                out: seen,
                mirrored: false,
            });
        };
        let mut draws = Draws::new(cut.seed, Purpose::Crop, 0, position);
        let size = match cut.scale {
            Some(scale) => {
                let [least, most] = long_sides(seen, scale);
                resized(seen, least + draws.below((most - least + 1) as u64) as usize)
            }
            None => seen,
        };
        ensure!(
            cut.scale.is_some() || size.iter().all(|&length| length >= side),
            "{}×{} pixels are less than a square of {side}",
            size[0],
            size[1]
        );
        let mut start = |length: usize| draws.below((length.max(side) - side + 1) as u64) as usize;
        let (left, top) = (start(size[0]), start(size[1]));
        let mirrored = draws.below(2) == 1;
        Ok(DenseGeometry { bounds, size, left, top, out: [side; 2], mirrored })
    }

    /// Pixels of every sample, or of the largest.
    pub fn pixels(&self, side: usize) -> usize {
        if self.cut.is_some() { side * side } else { self.most_pixels }
    }
}

/// The least and the greatest longer side that may be drawn for a width and height.
pub fn long_sides([width, height]: [usize; 2], scale: [f64; 2]) -> [usize; 2] {
    scale.map(|factor| (factor * width.max(height) as f64).floor() as usize)
}

/// Width and height with the longer side at `long`; the width is it where both are equal.
pub fn resized([width, height]: [usize; 2], long: usize) -> [usize; 2] {
    let other = |other: usize, side: usize| {
        ((other as f64 * long as f64 / side as f64 + 0.5).floor() as usize).max(1)
    };
    if width >= height { [long, other(height, width)] } else { [other(width, height), long] }
}

impl DenseGeometry {
    /// Fills `out`, whose first `[height, width, 3]` are the result, with what is cut of `image`, black
    /// beyond it.
    ///
    /// # Errors
    /// `out` is too small.
    pub fn cut_image(
        &self,
        image: &Image,
        resizer: &mut CropResizer,
        out: &mut [u8],
    ) -> Result<()> {
        let [columns, rows] = self.out;
        let bytes = columns * rows * 3;
        ensure!(out.len() >= bytes, "{} bytes do not hold {columns}×{rows} pixels", out.len());
        let out = &mut out[..bytes];
        let seen = [self.seen(0), self.seen(1)];
        let mut resized = Vec::new();
        let is_resized = self.size != [self.bounds.width, self.bounds.height];
        if is_resized {
            ensure!(
                (self.bounds.width, self.bounds.height) == (image.width, image.height),
                "only whole images are resized"
            );
            let part = CropBox { left: self.left, top: self.top, width: seen[0], height: seen[1] };
            resized.resize(seen[0] * seen[1] * 3, 0);
            resizer.resize_part(image, [self.size[1], self.size[0]], part, &mut resized)?;
        }
        for (row, out) in out.chunks_exact_mut(columns * 3).enumerate() {
            out.fill(0);
            if row >= seen[1] {
                continue;
            }
            let from = if is_resized {
                &resized[row * seen[0] * 3..][..seen[0] * 3]
            } else {
                let row = self.bounds.top + self.top + row;
                let first = row * image.width + self.bounds.left + self.left;
                &image.pixels[first * 3..][..seen[0] * 3]
            };
            out[..from.len()].copy_from_slice(from);
            if self.mirrored {
                out.as_chunks_mut::<3>().0.reverse();
            }
        }
        Ok(())
    }

    /// For each column of the result (`axis` 0) or each row (1) that of the image that it shows; none
    /// where there is nothing.
    pub fn sources(&self, axis: usize) -> Vec<Option<usize>> {
        let (first, length, start) = match axis {
            0 => (self.bounds.left, self.bounds.width, self.left),
            _ => (self.bounds.top, self.bounds.height, self.top),
        };
        let nearest = nearest(length, self.size[axis]);
        let of = |place: usize| nearest.get(start + place).map(|source| first + source);
        let mut sources: Vec<_> = (0..self.out[axis]).map(of).collect();
        if axis == 0 && self.mirrored {
            sources.reverse();
        }
        sources
    }

    /// How much of the result is there.
    fn seen(&self, axis: usize) -> usize {
        let start = if axis == 0 { self.left } else { self.top };
        self.out[axis].min(self.size[axis].saturating_sub(start))
    }
}

/// Of `length` pixels that become `to`, the one that each of these is taken from. The middle of the
/// first is at length / to / 2, and the others follow by adding up length / to, as Pillow does: where a
/// middle falls on a border, the rounding of that sum decides.
fn nearest(length: usize, to: usize) -> Vec<usize> {
    let step = length as f64 / to as f64;
    let mut middle = step * 0.5;
    let mut sources = Vec::with_capacity(to);
    for _ in 0..to {
        sources.push((middle as usize).min(length - 1));
        middle += step;
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_fall_as_in_pillow() {
        assert_eq!(nearest(120, 217)[108], 59);
        assert_eq!(nearest(4, 4), [0, 1, 2, 3]);
        assert_eq!(nearest(4, 2), [1, 3]);
        assert_eq!(nearest(2, 4), [0, 0, 1, 1]);
    }

    /// Draws depend on seed and position, and every place of a square can come.
    #[test]
    fn squares_are_drawn_over_the_whole_image() {
        let cut = DenseCut { seed: 3, scale: None };
        let transform = DenseTransform { bounds: None, cut: Some(cut), most_pixels: 0 };
        let all: Vec<_> =
            (0..400).map(|position| transform.geometry(position, (10, 9), 8).unwrap()).collect();
        let mut places: Vec<_> = all.iter().map(|one| (one.left, one.top, one.mirrored)).collect();
        assert_eq!(all[7], transform.geometry(7, (10, 9), 8).unwrap());
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 3 * 2 * 2);
        let error = transform.geometry(0, (7, 9), 8).unwrap_err().to_string();
        assert!(error.contains("7×9 pixels are less than a square of 8"), "{error}");
    }
}
