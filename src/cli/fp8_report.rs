//! How far a teacher in FP8 is from itself in bf16, on the first pictures of the run.

use anyhow::Result;
use image::RgbImage;
use tch::{Device, Kind, Tensor};
use tracing::info;

use crate::config::{DistillConfig, TeacherPrecision};
use crate::data::{Dataset, Scratch};
use crate::dist::Team;
use crate::model::{Normalisation, VitInput, patchify};
use crate::native::{guard, upload};
use crate::objective::distill::{Teacher, mean_cosine};

/// Pictures to compare on.
const PICTURES: u64 = 8;

/// What a teacher gives in bf16.
pub struct Fp8Report {
    pictures: VitInput,
    tokens: Tensor,
}

impl Fp8Report {
    /// Looks at the teacher before it is frozen; none where the config asks for no FP8. Of several
    /// processes one reports.
    ///
    /// # Errors
    /// The first pictures cannot be read, or libtorch fails.
    pub fn begin(
        config: &DistillConfig,
        team: &Team,
        dataset: &Dataset,
        teacher: &Teacher,
    ) -> Result<Option<Self>> {
        if config.teacher.precision != TeacherPrecision::Fp8 || !team.is_first() {
            return Ok(None);
        }
        let images = first_pictures(config, dataset, team.device())?;
        guard(|| {
            let patch = config.teacher.model.patch_size as i64;
            let side = config.train.data.input_size as i64 / patch;
            let pictures = VitInput::whole(patchify(&images, patch), side, side);
            let tokens = teacher.tokens(&pictures, Kind::BFloat16);
            Ok(Some(Self { pictures, tokens }))
        })
    }

    /// Compares with the frozen teacher, and logs the mean cosine of their tokens.
    ///
    /// # Errors
    /// libtorch's message.
    pub fn finish(self, teacher: &Teacher) -> Result<f64> {
        // Not as a recorded pass, which would keep its memory for this one comparison.
        let forward = || teacher.vit.forward(&self.pictures, Kind::BFloat16);
        let cosine = guard(|| Ok(mean_cosine(&self.tokens, &tch::no_grad(forward))))?;
        info!(
            "the teacher's tokens in FP8 have a mean cosine of {cosine:.5} with those in bf16, on \
             {PICTURES} pictures"
        );
        Ok(cosine)
    }
}

/// The first pictures of the stream, normalised: `[B, 3, H, W]`.
fn first_pictures(config: &DistillConfig, dataset: &Dataset, device: Device) -> Result<Tensor> {
    let side = config.train.data.input_size;
    let mut scratch = Scratch::default();
    let mut bytes = Vec::new();
    for position in 0..PICTURES {
        let mut crop = RgbImage::new(side as u32, side as u32);
        dataset.fill(&mut scratch, position, &mut crop)?;
        bytes.extend_from_slice(&crop);
    }
    let shape = [PICTURES as i64, side as i64, side as i64, 3];
    let bytes = upload(&bytes, &shape, device)?;
    guard(|| {
        Ok(Normalisation::new(config.train.data.mean, config.train.data.std, device).apply(&bytes))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{EncoderConfig, EncoderSize};
    use crate::objective::distill::Distillation;

    /// Looked at on the CPU, where users cannot come.
    #[test]
    fn the_report_compares_the_first_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let mut shard = tar::Builder::new(Vec::new());
        for name in ["baseline420.jpg", "baseline444.jpg"] {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/crops");
            shard.append_path_with_name(root.join(name), name).unwrap();
        }
        let path = folder.path().join("0.tar");
        std::fs::write(&path, shard.into_inner().unwrap()).unwrap();
        let size = EncoderSize { patch_size: 8, ..EncoderSize::new(48, 2, 4) };
        let mut config = DistillConfig::minimal(folder.path(), size);
        config.train.data.shards = vec![path.display().to_string()];
        config.train.data.input_size = 32;
        config.students = vec![EncoderConfig::minimal("student", size)];
        let dataset = Dataset::open(&config.train.data, 0, &|_, _| ()).unwrap();
        let team = Team::alone(Device::Cpu, || false);
        let teacher = || Teacher::new(Teacher::drawn(Device::Cpu, Kind::BFloat16, 0), size, 4);
        assert!(Fp8Report::begin(&config, &team, &dataset, &teacher()).unwrap().is_none());

        config.teacher.precision = TeacherPrecision::Fp8;
        let teacher = teacher();
        let report = Fp8Report::begin(&config, &team, &dataset, &teacher).unwrap().unwrap();
        assert_eq!(report.tokens.size(), [8, 24, 48]);
        let objective = Distillation::new(&config, teacher, Device::Cpu, Kind::BFloat16);
        let cosine = report.finish(&objective.teacher).unwrap();
        assert!(cosine > 0.99 && cosine < 0.99999, "mean cosine {cosine}");
    }
}
