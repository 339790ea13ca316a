//! Pictures of what an autoencoder makes of a few samples: input, what it saw, its prediction.

use anyhow::Result;
use image::RgbImage;
use tch::{Kind, Tensor};

use super::training::Start;
use crate::config::PretrainConfig;
use crate::data::Scratch;
use crate::model::{Mask, Normalisation};
use crate::native::{guard, upload};
use crate::objective::pretrain::{Autoencoder, Reconstruction};
use crate::report::Sheet;

/// Grey that stands for a masked patch.
const MASKED: u8 = 128;

/// A sheet with a row for each of the first samples of the stream, whose crops and masks stay the same
/// throughout the run: the crop, the patches that the encoder saw, and these with the others predicted.
///
/// # Errors
/// A sample cannot be read, or libtorch fails.
pub fn draw(start: &Start<PretrainConfig>, autoencoder: &Autoencoder) -> Result<Vec<u8>> {
    let PretrainConfig { train, encoder, reconstructions, .. } = start.config;
    let side = train.data.input_size;
    let patches = side / encoder.model.patch_size;
    let positions = 0..reconstructions.samples;
    let mut scratch = Scratch::default();
    let mut crops = vec![0; reconstructions.samples as usize * side * side * 3];
    for (position, crop) in positions.clone().zip(crops.chunks_mut(side * side * 3)) {
        start.dataset.fill(&mut scratch, position, crop)?;
    }
    let shape = [reconstructions.samples as i64, side as i64, side as i64, 3];
    let bytes = upload(&crops, &shape, start.device)?;
    let mask = Mask { side: patches, grid: encoder.mask_grid, ratio: encoder.mask_ratio };
    let keep: Vec<i64> = positions.flat_map(|p| mask.draw_at(train.seed, 0, p)).collect();
    let keep = upload(&keep, &[shape[0], mask.kept() as i64], start.device)?;
    let columns = guard(|| {
        let normalisation = Normalisation::new(train.data.mean, train.data.std, start.device);
        let normalised = normalisation.apply(&bytes);
        let Reconstruction { masked, images, .. } = autoencoder.reconstruct(&normalised, keep);
        let predicted = normalisation.undo(&images);
        Ok([bytes.shallow_clone(), greyed(&bytes, &masked, patches as i64), predicted])
    })?;
    sheet(&columns, side as u32)
}

/// `images` `[B, H, W, 3]` with grey in the place of the patches that are `masked` `[B, N]`.
fn greyed(images: &Tensor, masked: &Tensor, patches: i64) -> Tensor {
    let (batch, side) = (images.size()[0], images.size()[1]);
    let per_pixel = masked
        .view([batch, 1, patches, patches])
        .upsample_nearest2d([side, side], None, None)
        .permute([0, 2, 3, 1])
        .to_kind(Kind::Bool);
    images.masked_fill(&per_pixel, i64::from(MASKED))
}

/// A sheet of columns of pictures `[B, side, side, 3]` uint8.
fn sheet(columns: &[Tensor], side: u32) -> Result<Vec<u8>> {
    let rows = columns.first().map_or(0, |column| column.size()[0]) as u32;
    let mut sheet = Sheet::new(rows, columns.len() as u32, (side, side));
    let bytes_of_one = (side * side * 3) as usize;
    for (column, pictures) in (0..).zip(columns) {
        let bytes: Vec<u8> = guard(|| Ok(Vec::try_from(pictures.flatten(0, -1))?))?;
        for (row, picture) in (0..).zip(bytes.chunks_exact(bytes_of_one)) {
            let picture = RgbImage::from_raw(side, side, picture.to_vec());
            sheet.put(row, column, &picture.unwrap_or_default());
        }
    }
    sheet.to_png()
}
