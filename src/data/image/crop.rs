//! Random crops: the boxes that training cuts from images.

use distill_base::draws::{Draws, Purpose};
use serde::{Deserialize, Serialize};

/// A box of whole pixels within an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CropBox {
    pub left: usize,
    pub top: usize,
    pub width: usize,
    pub height: usize,
}

/// What crops are drawn: shares of the area and width over height, each `[least, most]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CropRange {
    pub scale: [f64; 2],
    pub ratio: [f64; 2],
}

impl CropRange {
    /// The crop of the image of `width` × `height` pixels at `position` of the stream of
    /// samples.
    pub fn draw_at(&self, seed: u64, position: u64, width: usize, height: usize) -> CropBox {
        CropBox::draw(&mut Draws::new(seed, Purpose::Crop, 0, position), width, height, self)
    }
}

impl CropBox {
    /// Draws a box as torchvision's `RandomResizedCrop.get_params` does: up to ten tries of a
    /// uniform area and a log-uniform ratio, then the largest central box of an allowed ratio.
    pub fn draw(draws: &mut Draws, width: usize, height: usize, range: &CropRange) -> Self {
        let between = |[least, most]: [f64; 2], share: f64| least + (most - least) * share;
        let area = (width * height) as f64;
        for _ in 0..10 {
            let target = area * between(range.scale, draws.uniform());
            let ratio = between(range.ratio.map(f64::ln), draws.uniform()).exp();
            let crop_width = (target * ratio).sqrt().round_ties_even() as usize;
            let crop_height = (target / ratio).sqrt().round_ties_even() as usize;
            if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
                let top = draws.below((height - crop_height + 1) as u64) as usize;
                let left = draws.below((width - crop_width + 1) as u64) as usize;
                return Self { left, top, width: crop_width, height: crop_height };
            }
        }
        Self::central(width, height, range.ratio)
    }

    fn central(width: usize, height: usize, [least, most]: [f64; 2]) -> Self {
        let ratio = width as f64 / height as f64;
        let (mut crop_width, mut crop_height) = (width, height);
        if ratio < least {
            crop_height = ((width as f64 / least).round_ties_even() as usize).clamp(1, height);
        } else if ratio > most {
            crop_width = ((height as f64 * most).round_ties_even() as usize).clamp(1, width);
        }
        Self {
            left: (width - crop_width) / 2,
            top: (height - crop_height) / 2,
            width: crop_width,
            height: crop_height,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: CropRange = CropRange { scale: [0.2, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] };

    fn draw(position: u64, width: usize, height: usize) -> CropBox {
        CropBox::draw(&mut Draws::new(1, Purpose::Crop, 0, position), width, height, &RANGE)
    }

    #[test]
    fn crops_lie_inside_and_spread_as_torchvisions_do() {
        let boxes: Vec<CropBox> = (0..20_000).map(|position| draw(position, 500, 375)).collect();
        for crop in &boxes {
            assert!(crop.left + crop.width <= 500 && crop.top + crop.height <= 375, "{crop:?}");
            let area = (crop.width * crop.height) as f64 / (500.0 * 375.0);
            assert!((0.195..=1.0).contains(&area), "{crop:?}");
        }
        // Means of 300,000 boxes from torchvision 0.26's RandomResizedCrop.get_params.
        let mean = |of: fn(&CropBox) -> usize| {
            boxes.iter().map(|b| of(b) as f64).sum::<f64>() / boxes.len() as f64
        };
        for (found, expected) in [
            (mean(|b| b.width), 307.5),
            (mean(|b| b.height), 293.4),
            (mean(|b| b.left), 96.3),
            (mean(|b| b.top), 40.8),
        ] {
            assert!((found - expected).abs() < 2.0, "found a mean of {found}, expected {expected}");
        }
    }

    #[test]
    fn long_thin_images_get_the_central_box() {
        let wide = draw(0, 2000, 30);
        assert_eq!(wide, CropBox { left: 980, top: 0, width: 40, height: 30 });
        let tall = draw(0, 30, 2001);
        assert_eq!(tall, CropBox { left: 0, top: 980, width: 30, height: 40 });
        for (width, height) in [(1, 1), (1, 5000), (5000, 1), (2, 3)] {
            let crop = draw(3, width, height);
            assert!(crop.width >= 1 && crop.height >= 1, "{crop:?}");
            assert!(crop.left + crop.width <= width && crop.top + crop.height <= height);
        }
    }
}
