//! What encoders see of the samples that a run trains on.

use std::ops::Range;

use anyhow::{Context, Result};
use image::RgbImage;

use super::masks::dimmed;
use super::sheet::Sheet;
use crate::data::{Dataset, Scratch};
use crate::nn::Mask;

/// Samples of a run's stream as encoders see them.
pub struct Preview {
    /// A row for each sample: the whole crop, and the crop as each encoder sees it.
    pub sheet: Sheet,
    /// In the order of the rows.
    pub samples: Vec<PreviewedSample>,
}

/// A row of a [`Preview`].
pub struct PreviewedSample {
    /// Its place in the stream of samples.
    pub position: u64,
    /// Its shard and its name there.
    pub name: String,
    pub label: Option<u32>,
}

/// How an encoder sees a crop.
pub struct View {
    /// Side of its patches, in pixels.
    pub patch_size: u32,
    /// What is left out of its images; none: it sees all of them.
    pub mask: Option<Mask>,
}

/// Draws the samples at `positions`, of `image_size` × `image_size` pixels, with the crops of a run of
/// this `seed`, and the masks that its encoders have by their places in `views`.
///
/// # Errors
/// A sample cannot be read.
pub fn preview(
    dataset: &Dataset,
    positions: Range<u64>,
    image_size: u32,
    seed: u64,
    views: &[View],
) -> Result<Preview> {
    let rows = (positions.end - positions.start) as u32;
    let mut sheet = Sheet::new(rows, 1 + views.len() as u32, (image_size, image_size));
    let mut samples = Vec::new();
    let mut scratch = Scratch::default();
    for (row, position) in (0..).zip(positions) {
        let mut crop = RgbImage::new(image_size, image_size);
        let sample = dataset.fill(&mut scratch, position, &mut crop)?;
        let image = sample.context("an image is missing")?.location;
        let name = dataset.describe(&image);
        samples.push(PreviewedSample { position, name, label: image.label });
        sheet.put(row, 0, &crop);
        for (rng_stream, View { patch_size, mask }) in (0..).zip(views) {
            let kept = mask.as_ref().map(|mask| mask.draw_at(seed, rng_stream.into(), position));
            let seen = kept.map_or_else(|| crop.clone(), |kept| dimmed(&crop, *patch_size, &kept));
            sheet.put(row, rng_stream + 1, &seen);
        }
    }
    Ok(Preview { sheet, samples })
}
