//! A pass over the test split: windows of every image through all heads, features of windows kept.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use super::config::HeadsConfig;
use super::store::{FeatureStore, Kept};
use crate::artifacts::paths;
use crate::data::pairs::{PairSet, PairTask, TARGET};
use crate::data::{Batch, Dataset, Loader};
use crate::dist::ProcessGroup;
use crate::encoders::Encoder;
use crate::eval::dense::{
    ClassCounts, DEPTH_FIGURES, DenseTask, DepthFigures, HeadTrainer, Merge, Window, cut_windows,
    depth_figures, feature_maps, mean_of_figures, windows,
};
use crate::native::{guard, upload};
use crate::nn::Normalisation;
use crate::status;

/// What is used over and over.
pub struct TestPass<'a> {
    config: &'a HeadsConfig,
    group: &'a ProcessGroup,
    encoder: &'a dyn Encoder,
    task: DenseTask,
    divisor: f64,
    dataset: Arc<Dataset>,
    worker_program: &'a Path,
    normalisation: Normalisation,
    /// Blocks of the encoder that any head takes.
    blocks: Vec<usize>,
    store: FeatureStore,
    /// Of the images of this rank, in their order.
    images: Vec<Option<KeptImage>>,
}

/// What is kept of an image.
struct KeptImage {
    height: i64,
    width: i64,
    /// Metres float32, or classes uint8, `[H, W]`, on the host.
    target: Tensor,
    windows: Vec<Vec<Window>>,
    features: Vec<Kept>,
}

/// The figures of one head.
pub type Figures = Vec<(String, f64)>;

/// What is counted of one head.
enum Counter {
    /// Figures of each image of the whole split, zeros for those of other ranks, and whether it has any.
    Depth(Vec<Option<DepthFigures>>),
    Segmentation(ClassCounts),
}

impl<'a> TestPass<'a> {
    /// Prepares passes over the test split of `set`; nothing is computed yet.
    ///
    /// # Errors
    /// Files have gone, or what an earlier run kept cannot be removed.
    pub fn new(
        config: &'a HeadsConfig,
        group: &'a ProcessGroup,
        encoder: &'a dyn Encoder,
        (task, set): (DenseTask, &PairSet),
        (worker_program, normalisation): (&'a Path, Normalisation),
        blocks: Vec<usize>,
    ) -> Result<Self> {
        let dataset = Arc::new(set.test(&config.images(1))?);
        let divisor = match &set.task {
            PairTask::Depth { divisor, .. } => *divisor,
            PairTask::Segmentation { .. } => 1.0,
        };
        let folder = paths::features(&config.run.dir, group.rank());
        let bytes = |gigabytes: f64| (gigabytes * 1e9) as u64;
        let (memory, disk) = (config.test.memory_gigabytes, config.test.disk_gigabytes);
        let store = FeatureStore::new(folder, bytes(memory), bytes(disk))?;
        let own = own_images(dataset.sample_count(), group).count();
        let images = std::iter::repeat_with(|| None).take(own).collect();
        Ok(Self {
            config,
            group,
            encoder,
            task,
            divisor,
            dataset,
            worker_program,
            normalisation,
            blocks,
            store,
            images,
        })
    }

    /// Number of images, of all ranks.
    pub fn image_count(&self) -> u64 {
        self.dataset.sample_count()
    }

    /// The figures of each of `heads`. Every rank goes over its own images; all get the figures.
    /// `progress` is told after each image, and may end the pass.
    ///
    /// # Errors
    /// Images cannot be read, the device has no memory left, or the error of `progress`.
    pub fn run(
        &mut self,
        heads: &[&HeadTrainer],
        progress: &dyn Fn(u64) -> Result<()>,
    ) -> Result<Vec<Figures>> {
        let count = self.image_count();
        let mut counters: Vec<Counter> = heads.iter().map(|_| self.counter(count)).collect();
        let mut loader = self.loader_of_missing()?;
        let own: Vec<u64> = own_images(count, self.group).collect();
        for (index, position) in own.into_iter().enumerate() {
            if let Some(kept) = self.images[index].take() {
                let scored = self.score_kept(&kept, heads);
                self.images[index] = Some(kept);
                self.count(&mut counters, scored?, index, position)?;
            } else {
                let batch = loader.next_batch()?.context("a test image is missing")?;
                self.score_new(&batch, heads, &mut counters, index)?;
            }
            status::beat();
            progress(position)?;
        }
        counters.into_iter().map(|counter| self.figures(counter)).collect()
    }

    fn counter(&self, count: u64) -> Counter {
        match self.task {
            DenseTask::Depth { .. } => Counter::Depth(vec![None; count as usize]),
            DenseTask::Segmentation { classes } => {
                Counter::Segmentation(ClassCounts::new(classes, self.group.device()))
            }
        }
    }

    /// A loader of those images of this rank that nothing is kept of.
    fn loader_of_missing(&self) -> Result<Loader> {
        let own = own_images(self.image_count(), self.group);
        let missing: Vec<u64> = own
            .zip(&self.images)
            .filter(|(_, kept)| kept.is_none())
            .map(|(position, _)| position)
            .collect();
        let ranges = missing.into_iter().map(|position| position..position + 1);
        Loader::start(self.dataset.clone(), &self.config.images(1), self.worker_program, ranges)
    }

    fn grid(&self) -> [i64; 2] {
        [self.config.training.crop_size as i64 / self.encoder.shape().patch_size; 2]
    }

    fn has_prefix(&self) -> bool {
        self.encoder.shape().prefix_tokens > 0
    }

    /// Merged windows of each head, from kept features.
    fn score_kept(&self, kept: &KeptImage, heads: &[&HeadTrainer]) -> Result<Vec<Merge>> {
        let device = self.group.device();
        let mut merges = self.merges(kept.height, kept.width, heads);
        for (windows, features) in kept.windows.iter().zip(&kept.features) {
            let maps = features.maps(device, self.grid(), self.has_prefix())?;
            self.add(&mut merges, heads, windows, &maps)?;
        }
        Ok(merges)
    }

    fn merges(&self, height: i64, width: i64, heads: &[&HeadTrainer]) -> Vec<Merge> {
        let device = self.group.device();
        heads.iter().map(|_| Merge::new(self.task, height, width, device)).collect()
    }

    fn add(
        &self,
        merges: &mut [Merge],
        heads: &[&HeadTrainer],
        windows: &[Window],
        maps: &[Tensor],
    ) -> Result<()> {
        let size = [self.config.training.crop_size as i64; 2];
        for (merge, head) in merges.iter_mut().zip(heads) {
            let own = maps_of(head, maps, &self.blocks, self.encoder.shape().depth);
            let scores = head.score(&own, size)?;
            guard(|| {
                merge.add(windows, &scores);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Computes the features of an image's windows, counts it, and keeps them where there is room.
    fn score_new(
        &mut self,
        batch: &Batch,
        heads: &[&HeadTrainer],
        counters: &mut [Counter],
        index: usize,
    ) -> Result<()> {
        let size = self.config.training.crop_size as i64;
        let compute = self.config.run.precision.kind();
        let (image, target) = self.image_and_target(batch)?;
        let (height, width) = (image.size()[1], image.size()[2]);
        let mut merges = self.merges(height, width, heads);
        let all = windows(height, width, size);
        let (mut chunks, mut features) = (Vec::new(), Vec::new());
        for some in all.chunks(self.config.test.window_batch) {
            let maps = guard(|| {
                let cut = cut_windows(&image, some, size);
                Ok(feature_maps(self.encoder, &cut, &self.blocks, compute))
            })?;
            self.add(&mut merges, heads, some, &maps)?;
            chunks.push(some.to_vec());
            features.push(self.store.keep(&maps, self.has_prefix(), compute)?);
        }
        let kept = features.into_iter().collect::<Option<Vec<Kept>>>();
        if let Some(features) = kept {
            // Not counted: a byte or four of a pixel, where features take a hundred.
            let kind = match self.task {
                DenseTask::Depth { .. } => Kind::Float,
                DenseTask::Segmentation { .. } => Kind::Uint8,
            };
            let target = guard(|| Ok(target.to_kind(kind).to_device(tch::Device::Cpu)))?;
            self.images[index] =
                Some(KeptImage { height, width, target, windows: chunks, features });
        }
        for (counter, merge) in counters.iter_mut().zip(merges) {
            count_image(counter, self.task, merge, &target, batch.positions.start)?;
        }
        Ok(())
    }

    fn count(
        &self,
        counters: &mut [Counter],
        merges: Vec<Merge>,
        index: usize,
        position: u64,
    ) -> Result<()> {
        let kept = self.images[index].as_ref().context("the image is kept")?;
        let kind = match self.task {
            DenseTask::Depth { .. } => Kind::Float,
            DenseTask::Segmentation { .. } => Kind::Int64,
        };
        let target = guard(|| Ok(kept.target.to_device(self.group.device()).to_kind(kind)))?;
        for (counter, merge) in counters.iter_mut().zip(merges) {
            count_image(counter, self.task, merge, &target, position)?;
        }
        Ok(())
    }

    /// The normalised image `[3, H, W]` and its target `[H, W]` on the device.
    fn image_and_target(&self, batch: &Batch) -> Result<(Tensor, Tensor)> {
        let device = self.group.device();
        let what =
            batch.images[0].context("a test image does not decode; see the warning above")?;
        let (width, height) = self.seen(what.size());
        let (rows, columns) = (height as i64, width as i64);
        let bytes = &batch.images()[..height * width * 3];
        let bytes = upload(bytes, &[1, rows, columns, 3], device)?;
        let image = guard(|| Ok(self.normalisation.apply(&bytes).squeeze_dim(0)))?;
        let stored = batch.target(TARGET).context("a test image has no target")?;
        let target = target_tensor(self.task, self.divisor, stored, &[rows, columns], device)?;
        Ok((image, target))
    }

    /// Width and height of what is seen of an image of this size.
    fn seen(&self, size: (usize, usize)) -> (usize, usize) {
        self.dataset.plan().transform.seen(size)
    }

    /// The figures over all ranks.
    fn figures(&self, counter: Counter) -> Result<Figures> {
        match counter {
            Counter::Depth(images) => {
                let images = self.of_all_ranks(&images)?;
                let mean = mean_of_figures(&images).context(
                    "no test image has enough pixels with a depth; is the divisor to metres right?",
                )?;
                Ok(DEPTH_FIGURES.iter().map(ToString::to_string).zip(mean).collect())
            }
            Counter::Segmentation(counts) => {
                counts.sum(self.group)?;
                let figures = counts.figures()?;
                Ok(vec![
                    ("miou".to_string(), figures.miou),
                    ("pixel_accuracy".to_string(), figures.pixel_accuracy),
                ])
            }
        }
    }

    /// Each rank has the figures of its own images, which are 0 elsewhere: the sums are those of all.
    fn of_all_ranks(&self, images: &[Option<DepthFigures>]) -> Result<Vec<DepthFigures>> {
        let row = |image: &Option<DepthFigures>| {
            let figures = image.unwrap_or_default();
            let has_some = f64::from(u8::from(image.is_some()));
            std::iter::once(has_some).chain(figures).collect::<Vec<f64>>()
        };
        let rows: Vec<f64> = images.iter().flat_map(row).collect();
        let all = guard(|| Ok(Tensor::from_slice(&rows).to_device(self.group.device())))?;
        self.group.sum(&all)?;
        let all = guard(|| Ok(Vec::<f64>::try_from(all)?))?;
        let rows = all.chunks(1 + DEPTH_FIGURES.len()).filter(|row| row[0] > 0.0);
        Ok(rows.map(|row| row[1..].try_into().expect("nine figures")).collect())
    }

    /// Removes what is on disk.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn clear(&self) -> Result<()> {
        self.store.clear()
    }
}

fn count_image(
    counter: &mut Counter,
    task: DenseTask,
    merge: Merge,
    target: &Tensor,
    position: u64,
) -> Result<()> {
    let prediction = guard(|| Ok(merge.finish()))?;
    match counter {
        Counter::Depth(images) => {
            images[position as usize] = depth_figures(task, &prediction, target)?.1;
            Ok(())
        }
        Counter::Segmentation(counts) => counts.add(&prediction, target),
    }
}

/// The test images of this rank.
fn own_images(count: u64, group: &ProcessGroup) -> impl Iterator<Item = u64> + use<> {
    (group.rank() as u64..count).step_by(group.world_size())
}

/// Those of the maps of `blocks` that a head takes.
pub fn maps_of(head: &HeadTrainer, maps: &[Tensor], blocks: &[usize], depth: usize) -> Vec<Tensor> {
    let place = |block: &usize| blocks.iter().position(|known| known == block);
    let own = head.kind().blocks(depth);
    own.iter().map(|block| maps[place(block).expect("it is there")].shallow_clone()).collect()
}

/// Targets as they are stored, on `device`: metres float32, or classes int64.
///
/// # Errors
/// The device has no memory left.
pub fn target_tensor(
    task: DenseTask,
    divisor: f64,
    stored: &[u8],
    shape: &[i64],
    device: tch::Device,
) -> Result<Tensor> {
    let count = shape.iter().product::<i64>() as usize;
    match task {
        DenseTask::Depth { .. } => {
            let numbers = stored[..2 * count].as_chunks::<2>().0.iter();
            let metres: Vec<f32> =
                numbers.map(|&two| (f64::from(u16::from_ne_bytes(two)) / divisor) as f32).collect();
            upload(&metres, shape, device)
        }
        DenseTask::Segmentation { .. } => {
            let classes = upload(&stored[..count], shape, device)?;
            guard(|| Ok(classes.to_kind(Kind::Int64)))
        }
    }
}
