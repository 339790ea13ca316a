//! The samples that an autoencoder is shown with again and again: input, what it saw, its prediction.

use anyhow::{Context, Result};
use tch::{Device, Tensor};

use super::autoencoder::{Autoencoder, Reconstruction};
use super::config::PretrainConfig;
use crate::config::DataConfig;
use crate::data::Loader;
use crate::native::{guard, upload};
use crate::nn::Normalisation;
use crate::tasks::task::{Column, Images};

/// The samples that are drawn again and again.
pub struct Samples {
    /// `[B, image_size, image_size, 3]` uint8 on the training device.
    bytes: Tensor,
    /// Patches in sight, `[B, K]`.
    keep: Tensor,
    normalisation: Normalisation,
}

impl Samples {
    /// The first of the run's stream, with the crops and masks that training begins with. Worker
    /// processes decode them, as they decode everything.
    ///
    /// # Errors
    /// A sample cannot be read, or the device has no memory left.
    pub fn read(config: &PretrainConfig, images: &Images, device: Device) -> Result<Self> {
        let PretrainConfig { train, encoder, reconstructions, .. } = config;
        let image_size = train.data.input_size;
        let (count, patches) = (reconstructions.samples, image_size / encoder.model.patch_size);
        let config = DataConfig { batch_size: count as usize, workers: 1, ..train.data.clone() };
        let ranges = std::iter::once(0..count);
        let mut loader =
            Loader::start(images.dataset.clone(), &config, images.worker_program, ranges)?;
        let batch = loader.next_batch()?.context("the stream of samples is empty")?;
        let shape = [count as i64, image_size as i64, image_size as i64, 3];
        let bytes = upload(batch.images(), &shape, device)?;
        let mask = encoder.mask(patches).context("the encoder has no mask")?;
        let keep: Vec<i64> = (0..count).flat_map(|p| mask.draw_at(train.seed, 0, p)).collect();
        let keep = upload(&keep, &[count as i64, mask.kept() as i64], device)?;
        let (mean, std) = (train.data.mean, train.data.std);
        let normalisation = guard(|| Ok(Normalisation::new(mean, std, device)))?;
        Ok(Self { bytes, keep, normalisation })
    }

    /// Of each sample the crop, the patches that the encoder sees, and these with the others
    /// predicted.
    pub fn draw(&self, autoencoder: &Autoencoder) -> Result<Vec<Column>> {
        let Self { bytes, keep, normalisation } = self;
        guard(|| {
            let Reconstruction { masked, images, .. } =
                autoencoder.reconstruct(&normalisation.apply(bytes), keep);
            let predicted = normalisation.undo(&images);
            let columns = [
                (bytes.shallow_clone(), None),
                (bytes.shallow_clone(), Some(masked)),
                (predicted, None),
            ];
            Ok(columns.map(|(images, masked)| Column { images, masked }).into())
        })
    }
}
