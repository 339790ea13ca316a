//! How far a teacher in FP8 is from itself in bf16, on the first images of the run.

use anyhow::Result;
use image::RgbImage;
use tch::{Device, Kind, Tensor};
use tracing::info;

use super::config::DistillConfig;
use super::distillation::mean_cosine;
use super::teacher::Teacher;
use crate::config::DataConfig;
use crate::data::{Dataset, Scratch};
use crate::dist::ProcessGroup;
use crate::encoders::Input;
use crate::native::{guard, upload};
use crate::nn::{ImageResizing, Normalisation, ProductPrecision};

/// Images to compare on.
const IMAGES: u64 = 8;

/// What a teacher gives in bf16.
pub struct Fp8Report {
    images: Input,
    tokens: Tensor,
}

impl Fp8Report {
    /// Looks at the teacher before it is frozen; none where the config asks for no FP8. Of several
    /// processes one reports.
    ///
    /// # Errors
    /// The first images cannot be read, or libtorch fails.
    pub fn begin(
        config: &DistillConfig,
        group: &ProcessGroup,
        dataset: &Dataset,
        teacher: &Teacher,
    ) -> Result<Option<Self>> {
        if config.teacher.precision != ProductPrecision::Fp8 || !group.is_first() {
            return Ok(None);
        }
        let images = first_images(config, dataset, group.device())?;
        guard(|| {
            let images = Input::whole(images);
            let tokens = teacher.tokens(&images, Kind::BFloat16).all;
            Ok(Some(Self { images, tokens }))
        })
    }

    /// Compares with the frozen teacher, and logs the mean cosine of their tokens.
    pub fn finish(self, teacher: &Teacher) -> Result<f64> {
        // Not as a recorded pass, which would keep its memory for this one comparison.
        let forward = || teacher.encoder().forward(&self.images, Kind::BFloat16).all;
        let cosine = guard(|| Ok(mean_cosine(&self.tokens, &tch::no_grad(forward))))?;
        info!(
            "the teacher's tokens in FP8 have a mean cosine of {cosine:.5} with those in bf16, on \
             {IMAGES} images"
        );
        Ok(cosine)
    }
}

/// The first images of the stream as the teacher sees them, normalised: `[B, 3, H, W]`.
fn first_images(config: &DistillConfig, dataset: &Dataset, device: Device) -> Result<Tensor> {
    let image_size = config.crop_size();
    let mut scratch = Scratch::default();
    let mut bytes = Vec::new();
    for position in 0..IMAGES {
        let mut crop = RgbImage::new(image_size as u32, image_size as u32);
        dataset.fill(&mut scratch, position, &mut crop)?;
        bytes.extend_from_slice(&crop);
    }
    let shape = [IMAGES as i64, image_size as i64, image_size as i64, 3];
    let bytes = upload(&bytes, &shape, device)?;
    guard(|| {
        let DataConfig { mean, std, .. } = config.train.data;
        let images = Normalisation::new(mean, std, device).apply(&bytes);
        let resizing = ImageResizing::new(mean, std, device);
        Ok(resizing.resize(&images, config.teacher_sees() as i64))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::encoders::EncoderSpec;
    use crate::tasks::TraineeConfig;
    use crate::tasks::distill::Distillation;

    /// Looked at on the CPU, where users cannot come.
    #[test]
    fn the_report_compares_the_first_images() {
        let folder = tempfile::tempdir().unwrap();
        let mut shard = tar::Builder::new(Vec::new());
        for name in ["baseline420.jpg", "baseline444.jpg"] {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/crops");
            shard.append_path_with_name(root.join(name), name).unwrap();
        }
        let path = folder.path().join("0.tar");
        std::fs::write(&path, shard.into_inner().unwrap()).unwrap();
        let size = EncoderSpec { patch_size: 8, ..EncoderSpec::new(48, 2, 4) };
        let mut config = DistillConfig::minimal(folder.path(), size);
        config.train.data.shards = vec![path.display().to_string()];
        config.train.data.input_size = 32;
        config.students = vec![TraineeConfig::minimal("student", size)];
        let dataset = Dataset::open(&config.train.data, 0, &|_, _| ()).unwrap();
        let group = ProcessGroup::alone(Device::Cpu, || false);
        let teacher = || Teacher::new(Teacher::drawn(Device::Cpu, Kind::BFloat16, 0), size, 4);
        assert!(Fp8Report::begin(&config, &group, &dataset, &teacher()).unwrap().is_none());

        config.teacher.precision = ProductPrecision::Fp8;
        let teacher = teacher();
        let report = Fp8Report::begin(&config, &group, &dataset, &teacher).unwrap().unwrap();
        assert_eq!(report.tokens.size(), [8, 24, 48]);
        let objective = Distillation::new(&config, teacher, Device::Cpu, Kind::BFloat16);
        let cosine = report.finish(&objective.teacher).unwrap();
        assert!(cosine > 0.99 && cosine < 0.99999, "mean cosine {cosine}");
    }
}
