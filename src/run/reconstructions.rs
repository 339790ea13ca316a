//! Images of what an autoencoder makes of a few samples: input, what it saw, its prediction.

use anyhow::{Context, Result};
use image::RgbImage;
use tch::{Kind, Tensor};

use super::training::Start;
use super::worker_program;
use crate::config::DataConfig;
use crate::data::Loader;
use crate::native::{guard, upload};
use crate::nn::Normalisation;
use crate::tasks::pretrain::PretrainConfig;
use crate::tasks::pretrain::{Autoencoder, Reconstruction};
use crate::viz::Sheet;

/// Grey that stands for a masked patch.
const MASKED: u8 = 128;

/// The samples that are drawn again and again.
pub struct Samples {
    /// `[B, image_size, image_size, 3]` uint8 on the training device.
    bytes: Tensor,
    /// Patches in sight, `[B, K]`.
    keep: Tensor,
    patches: i64,
    normalisation: Normalisation,
}

impl Samples {
    /// The first of the run's stream, with the crops and masks that training begins with. Worker
    /// processes decode them, as they decode everything.
    ///
    /// # Errors
    /// A sample cannot be read, or the device has no memory left.
    pub fn read(start: &Start<PretrainConfig>) -> Result<Self> {
        let PretrainConfig { train, encoder, reconstructions, .. } = start.config;
        let image_size = train.data.input_size;
        let (count, patches) = (reconstructions.samples, image_size / encoder.model.patch_size);
        let config = DataConfig { batch_size: count as usize, workers: 1, ..train.data.clone() };
        let ranges = std::iter::once(0..count);
        let mut loader = Loader::start(start.dataset.clone(), &config, &worker_program()?, ranges)?;
        let batch = loader.next_batch()?.context("the stream of samples is empty")?;
        let shape = [count as i64, image_size as i64, image_size as i64, 3];
        let bytes = upload(batch.images(), &shape, start.device)?;
        let mask = encoder.mask(patches).context("the encoder has no mask")?;
        let keep: Vec<i64> = (0..count).flat_map(|p| mask.draw_at(train.seed, 0, p)).collect();
        let keep = upload(&keep, &[count as i64, mask.kept() as i64], start.device)?;
        let (mean, std) = (train.data.mean, train.data.std);
        let normalisation = guard(|| Ok(Normalisation::new(mean, std, start.device)))?;
        Ok(Self { bytes, keep, patches: patches as i64, normalisation })
    }

    /// A sheet with a row for each: the crop, the patches that the encoder sees, and these with the
    /// others predicted.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn draw(&self, autoencoder: &Autoencoder) -> Result<Vec<u8>> {
        let Self { bytes, keep, patches, normalisation } = self;
        let columns = guard(|| {
            let Reconstruction { masked, images, .. } =
                autoencoder.reconstruct(&normalisation.apply(bytes), keep);
            let predicted = normalisation.undo(&images);
            Ok([bytes.shallow_clone(), greyed(bytes, &masked, *patches), predicted])
        })?;
        sheet(&columns, bytes.size()[1] as u32)
    }
}

/// `images` `[B, H, W, 3]` with grey in the place of the patches that are `masked` `[B, N]`.
fn greyed(images: &Tensor, masked: &Tensor, patches: i64) -> Tensor {
    let (batch, image_size) = (images.size()[0], images.size()[1]);
    let per_pixel = masked
        .view([batch, 1, patches, patches])
        .upsample_nearest2d([image_size, image_size], None, None)
        .permute([0, 2, 3, 1])
        .to_kind(Kind::Bool);
    images.masked_fill(&per_pixel, i64::from(MASKED))
}

/// A sheet of columns of images `[B, image_size, image_size, 3]` uint8.
fn sheet(columns: &[Tensor], image_size: u32) -> Result<Vec<u8>> {
    let rows = columns.first().map_or(0, |column| column.size()[0]) as u32;
    let mut sheet = Sheet::new(rows, columns.len() as u32, (image_size, image_size));
    let bytes_of_one = (image_size * image_size * 3) as usize;
    for (column, images) in (0..).zip(columns) {
        let bytes: Vec<u8> = guard(|| Ok(Vec::try_from(images.flatten(0, -1))?))?;
        for (row, image) in (0..).zip(bytes.chunks_exact(bytes_of_one)) {
            let image = RgbImage::from_raw(image_size, image_size, image.to_vec());
            sheet.put(row, column, &image.unwrap_or_default());
        }
    }
    sheet.to_png()
}
