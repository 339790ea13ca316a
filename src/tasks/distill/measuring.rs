//! The statistics of targets, measured on the first images of a run.

use anyhow::{Context, Result};
use tracing::info;

use super::config::{DistillConfig, TargetForm};
use super::distillation::Distillation;
use super::losses::class_and_patch;
use super::statistics::TargetSums;
use crate::config::DataConfig;
use crate::data::{Loader, RankBatches};
use crate::native::guard;
use crate::tasks::task::{Images, Setting};
use crate::train::prefetch::DevicePrefetcher;

/// Measures what targets are standardised by, where the configuration asks for that: each process takes its share of
/// the first `teacher.statistics_images` of the stream, and all come to the same numbers.
///
/// # Errors
/// The images cannot be read, a process fails, or libtorch does.
pub(super) fn measure_targets(
    config: &DistillConfig,
    setting: &Setting,
    distillation: &Distillation,
) -> Result<()> {
    let Some(images) = &setting.images else { return Ok(()) };
    if config.teacher.targets == TargetForm::Plain {
        return Ok(());
    }
    let group = setting.group;
    let count = config.teacher.statistics_images;
    let data = DataConfig { input_size: config.crop_size(), ..config.train.data.clone() };
    let batches = RankBatches {
        positions: 0..count,
        global_batch: count,
        batch: data.batch_size as u64,
        rank: group.rank() as u64,
        world_size: group.world_size() as u64,
    };
    let mut found = sums(distillation, setting, images, &data, batches)?;
    for (_, sums) in &mut found {
        group.sum(&sums.0)?;
    }
    group.synchronize()?;
    guard(|| {
        for student in distillation.students() {
            for (block, statistics) in student.statistics() {
                let sums = found.iter().find(|(own, _)| own == block);
                let (_, sums) = sums.context("statistics of a block that was measured")?;
                tch::no_grad(|| statistics.set(sums));
            }
        }
        Ok(())
    })?;
    if group.is_first() {
        info!("targets are standardised by the teacher's tokens on the first {count} images");
    }
    Ok(())
}

/// Sums over this process's images, by the teacher's blocks.
fn sums(
    distillation: &Distillation,
    setting: &Setting,
    images: &Images,
    data: &DataConfig,
    batches: RankBatches,
) -> Result<Vec<(usize, TargetSums)>> {
    let device = setting.device;
    let dim = distillation.teacher.encoder().shape().dim;
    let blocks = distillation.target_blocks().iter();
    let mut found: Vec<_> =
        guard(|| Ok(blocks.map(|&block| (block, TargetSums::zeros(dim, device))).collect()))?;
    let ranges: Vec<_> = batches.ranges().collect();
    let passes = ranges.len();
    let dataset = images.dataset.clone();
    let loader = Loader::start(dataset, data, images.worker_program, ranges.into_iter())?;
    let mut prefetcher = DevicePrefetcher::new(Box::new(loader), data, device)?;
    for _ in 0..passes {
        setting.group.check()?;
        let batch = prefetcher.next_batch()?;
        guard(|| {
            let targets = distillation.targets(&batch.images);
            for ((_, tokens), (_, sums)) in targets.iter().zip(&mut found) {
                sums.add(&class_and_patch(tokens));
            }
            Ok(())
        })?;
    }
    Ok(found)
}
