//! A pass over the test split: windows of every image through all heads, features of windows kept.

use std::sync::Arc;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use super::ground::Ground;
use super::store::{FeatureStore, Kept};
use crate::artifacts::paths;
use crate::data::{Batch, Dataset, Loader};
use crate::dist::ProcessGroup;
use crate::eval::dense::{
    ClassCounts, DEPTH_FIGURES, DenseTask, DepthFigures, HeadTrainer, Merge, Window, cut_windows,
    depth_figures, mean_of_figures, windows,
};
use crate::native::{guard, upload};
use crate::nn::Normalisation;
use crate::status;

/// What is used over and over.
pub struct TestPass<'a> {
    ground: &'a Ground<'a>,
    dataset: Arc<Dataset>,
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
    /// Of some windows each, in their order.
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
    pub fn new(ground: &'a Ground<'a>, blocks: Vec<usize>) -> Result<Self> {
        let Ground { config, group, set, .. } = ground;
        let dataset = Arc::new(set.test(&config.images(1))?);
        let folder = paths::features(&config.run.dir, group.rank());
        let bytes = |gigabytes: f64| (gigabytes * 1e9) as u64;
        let (memory, disk) = (config.test.memory_gigabytes, config.test.disk_gigabytes);
        let store = FeatureStore::new(folder, bytes(memory), bytes(disk))?;
        let own = own_images(dataset.sample_count(), group).count();
        let images = std::iter::repeat_with(|| None).take(own).collect();
        Ok(Self { ground, dataset, normalisation: ground.normalisation()?, blocks, store, images })
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
        let own: Vec<u64> = own_images(count, self.ground.group).collect();
        for (index, position) in own.into_iter().enumerate() {
            let (merges, target) = match (&self.images[index], &mut loader) {
                (Some(kept), _) => self.score_kept(kept, heads)?,
                (None, Some(loader)) => {
                    let batch = loader.next_batch()?.context("a test image is missing")?;
                    self.score_new(&batch, heads, index)?
                }
                (None, None) => unreachable!("what is missing has a loader"),
            };
            for (counter, merge) in counters.iter_mut().zip(merges) {
                count_image(counter, self.ground.task(), merge, &target, position)?;
            }
            status::beat();
            progress(position)?;
        }
        counters.into_iter().map(|counter| self.figures(counter)).collect()
    }

    fn counter(&self, count: u64) -> Counter {
        match self.ground.task() {
            DenseTask::Depth { .. } => Counter::Depth(vec![None; count as usize]),
            DenseTask::Segmentation { classes } => {
                Counter::Segmentation(ClassCounts::new(classes, self.ground.group.device()))
            }
        }
    }

    /// A loader of those images of this rank that nothing is kept of, if there are any.
    fn loader_of_missing(&self) -> Result<Option<Loader>> {
        let Ground { config, group, worker_program, .. } = self.ground;
        let own = own_images(self.image_count(), group);
        let missing: Vec<u64> = own
            .zip(&self.images)
            .filter(|(_, kept)| kept.is_none())
            .map(|(position, _)| position)
            .collect();
        if missing.is_empty() {
            return Ok(None);
        }
        let ranges = missing.into_iter().map(|position| position..position + 1);
        Loader::start(self.dataset.clone(), &config.images(1), worker_program, ranges).map(Some)
    }

    /// Side of training squares and test windows, in pixels.
    fn side(&self) -> i64 {
        self.ground.config.training.crop_size as i64
    }

    fn grid(&self) -> [i64; 2] {
        [self.side() / self.ground.model().shape().patch_size; 2]
    }

    fn has_prefix(&self) -> bool {
        self.ground.model().shape().class_tokens > 0
    }

    /// Merged windows of each head, from kept features, and the target on the device.
    fn score_kept(&self, kept: &KeptImage, heads: &[&HeadTrainer]) -> Result<(Vec<Merge>, Tensor)> {
        let KeptImage { height, width, target, features } = kept;
        let device = self.ground.group.device();
        let mut merges = self.merges(*height, *width, heads);
        let windows = windows(*height, *width, self.side());
        let chunks = windows.chunks(self.ground.config.test.window_batch);
        for (windows, features) in chunks.zip(features) {
            let maps = features.maps(device, self.grid(), self.has_prefix())?;
            self.add(&mut merges, heads, windows, &maps)?;
        }
        let kind = self.ground.target_kind();
        Ok((merges, guard(|| Ok(target.to_device(device).to_kind(kind)))?))
    }

    /// The number format in which targets are kept.
    fn kept_kind(&self) -> Kind {
        match self.ground.task() {
            DenseTask::Depth { .. } => Kind::Float,
            DenseTask::Segmentation { .. } => Kind::Uint8,
        }
    }

    fn merges(&self, height: i64, width: i64, heads: &[&HeadTrainer]) -> Vec<Merge> {
        let (task, device) = (self.ground.task(), self.ground.group.device());
        heads.iter().map(|_| Merge::new(task, height, width, device)).collect()
    }

    fn add(
        &self,
        merges: &mut [Merge],
        heads: &[&HeadTrainer],
        windows: &[Window],
        maps: &[Tensor],
    ) -> Result<()> {
        for (merge, head) in merges.iter_mut().zip(heads) {
            let own = self.ground.maps_of(head, maps, &self.blocks);
            let scores = head.score(&own, [self.side(); 2])?;
            guard(|| {
                merge.add(windows, &scores);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// As [`Self::score_kept`], of an image whose features are computed, and kept where there is room.
    fn score_new(
        &mut self,
        batch: &Batch,
        heads: &[&HeadTrainer],
        index: usize,
    ) -> Result<(Vec<Merge>, Tensor)> {
        let (image, target) = self.image_and_target(batch)?;
        let (height, width) = (image.size()[1], image.size()[2]);
        let mut merges = self.merges(height, width, heads);
        let mut features = Vec::new();
        let windows = windows(height, width, self.side());
        for some in windows.chunks(self.ground.config.test.window_batch) {
            let cut = guard(|| Ok(cut_windows(&image, some, self.side())))?;
            let maps = self.ground.maps(&cut, &self.blocks)?;
            self.add(&mut merges, heads, some, &maps)?;
            features.push(self.store.keep(&maps, self.has_prefix(), self.ground.compute())?);
        }
        if let Some(features) = features.into_iter().collect::<Option<Vec<Kept>>>() {
            // Not counted: a byte or four of a pixel, where features take a hundred.
            let kind = self.kept_kind();
            let target = guard(|| Ok(target.to_kind(kind).to_device(tch::Device::Cpu)))?;
            self.images[index] = Some(KeptImage { height, width, target, features });
        }
        Ok((merges, target))
    }

    /// The normalised image `[3, H, W]` and its target `[H, W]` on the device.
    fn image_and_target(&self, batch: &Batch) -> Result<(Tensor, Tensor)> {
        let device = self.ground.group.device();
        let what =
            batch.images[0].context("a test image does not decode; see the warning above")?;
        let (width, height) = self.dataset.plan().transform.seen(what.size());
        let (rows, columns) = (height as i64, width as i64);
        let bytes = &batch.images()[..height * width * 3];
        let bytes = upload(bytes, &[1, rows, columns, 3], device)?;
        let image = guard(|| Ok(self.normalisation.apply(&bytes).squeeze_dim(0)))?;
        Ok((image, self.ground.targets(Some(batch), &[rows, columns])?))
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
                counts.sum(self.ground.group)?;
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
        let all = guard(|| Ok(Tensor::from_slice(&rows).to_device(self.ground.group.device())))?;
        self.ground.group.sum(&all)?;
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
