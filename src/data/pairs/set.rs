//! [`PairSet`]: an opened data set of pairs.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use tracing::warn;

use super::check;
use super::list::{Pair, Split};
use crate::config::{DataConfig, ShuffleConfig, TargetConfig};
use crate::dataset::Dataset;
use crate::image::{ClassMap, CropBox, DenseCut, DensePixels, DenseTransform, Transform};
use crate::source::{Bundle, SampleFiles, ShardAddress, Sources};

/// The name of the targets among a batch's fields.
pub const TARGET: &str = "target";

/// How many targets of a split are looked into before anything is trained.
const LOOKED_INTO: usize = 64;

/// What is to be predicted at every pixel of a set.
#[derive(Debug, Clone, PartialEq)]
pub enum PairTask {
    Depth {
        /// Stored depth of a metre.
        divisor: f64,
        /// Bounds of what counts, in metres, both inside.
        range: [f64; 2],
        /// What is seen of an image at all; none: all of it.
        bounds: Option<CropBox>,
    },
    Segmentation {
        classes: usize,
        /// What stored numbers stand for.
        map: ClassMap,
        /// Names of the classes, where they are known.
        names: Vec<String>,
        /// The longer side of a training image is drawn between these multiples of itself.
        scale: [f64; 2],
    },
}

/// A data set of pairs whose lists were checked.
#[derive(Debug)]
pub struct PairSet {
    pub name: String,
    pub root: PathBuf,
    pub task: PairTask,
    train: Vec<Pair>,
    test: Vec<Pair>,
    /// The files of both splits.
    bundles: [Arc<Bundle>; 2],
    /// Pixels of the largest test image.
    most_test_pixels: usize,
}

impl PairTask {
    fn pixels(&self) -> DensePixels {
        match self {
            Self::Depth { .. } => DensePixels::Depth,
            Self::Segmentation { .. } => DensePixels::Classes,
        }
    }

    fn bounds(&self) -> Option<CropBox> {
        match self {
            Self::Depth { bounds, .. } => *bounds,
            Self::Segmentation { .. } => None,
        }
    }
}

impl PairSet {
    /// The set of these lists, once their files were looked at: all headers, and the pixels of some
    /// targets.
    ///
    /// # Errors
    /// Files are missing, or not what they should be; up to twenty are named.
    pub fn new(
        name: String,
        root: PathBuf,
        task: PairTask,
        [train, test]: [Vec<Pair>; 2],
    ) -> Result<Self> {
        // Files that are not there are named together, before any is opened.
        let bundle = |split: Split, pairs: &[Pair]| -> Result<Arc<Bundle>> {
            let name = format!("{name} ({})", split.name());
            let files = |pair: &Pair| {
                let [image, target] = pair.below(&root);
                SampleFiles { image, targets: vec![target], label: None }
            };
            let samples: Vec<SampleFiles> = pairs.iter().map(files).collect();
            Ok(Arc::new(Bundle::new(&name, &samples)?))
        };
        let bundles = [bundle(Split::Train, &train)?, bundle(Split::Test, &test)?];
        let mut set = Self { name, root, task, train, test, bundles, most_test_pixels: 0 };
        set.check(Split::Train)?;
        let seen = |[width, height]: &[u32; 2]| match set.task.bounds() {
            Some(bounds) => bounds.width * bounds.height,
            None => *width as usize * *height as usize,
        };
        set.most_test_pixels = set.check(Split::Test)?.iter().map(seen).max().unwrap_or(0);
        Ok(set)
    }

    /// The pairs of a split, in byte order.
    pub fn pairs(&self, split: Split) -> &[Pair] {
        match split {
            Split::Train => &self.train,
            Split::Test => &self.test,
        }
    }

    fn check(&self, split: Split) -> Result<Vec<[u32; 2]>> {
        let pairs = self.pairs(split);
        let name = format!("{} ({})", self.name, split.name());
        let paths: Vec<[PathBuf; 2]> = pairs.iter().map(|pair| pair.below(&self.root)).collect();
        let sizes = check::headers(&name, &paths, self.task.pixels())?;
        let every = paths.len().div_ceil(LOOKED_INTO);
        let some: Vec<PathBuf> =
            paths.into_iter().step_by(every).map(|[_, target]| target).collect();
        match &self.task {
            PairTask::Depth { divisor, range: [least, most], .. } => {
                check::depths(&some, |stored| {
                    let metres = f64::from(stored) / divisor;
                    stored > 0 && metres >= *least && metres <= *most
                })?
            }
            PairTask::Segmentation { classes, map, .. } => check::masks(&some, map, *classes)?,
        }
        Ok(sizes)
    }

    /// The training split as an endless stream: all pairs once in each pass, in an order and with cuts
    /// drawn by `seed`; squares of `config.input_size`. Failing samples end it beyond
    /// `config.max_failed_share`.
    ///
    /// # Errors
    /// The cache of `config` is too small.
    pub fn training(&self, config: &DataConfig, seed: u64) -> Result<Dataset> {
        let scale = match &self.task {
            PairTask::Depth { .. } => None,
            PairTask::Segmentation { scale, .. } => Some(*scale),
        };
        let cut = Some(DenseCut { seed, scale });
        let transform = DenseTransform { bounds: self.task.bounds(), cut, most_pixels: 0 };
        self.dataset(Split::Train, config, seed, Transform::Dense(transform), u64::MAX)
    }

    /// The test split: every pair once, whole, in byte order.
    ///
    /// # Errors
    /// The cache of `config` is too small.
    pub fn test(&self, config: &DataConfig) -> Result<Dataset> {
        let most_pixels = self.most_test_pixels;
        let transform = DenseTransform { bounds: self.task.bounds(), cut: None, most_pixels };
        self.dataset(Split::Test, config, 0, Transform::Dense(transform), u64::MAX)
    }

    /// `most` pairs of a split at even distances, once, in byte order: the central square of each, whose
    /// shorter side was resized to `config.input_size`. Bounds of what is seen do not hold.
    ///
    /// # Errors
    /// The cache of `config` is too small.
    pub fn central(&self, split: Split, config: &DataConfig, most: u64) -> Result<Dataset> {
        self.dataset(split, config, 0, Transform::Central { measure: false }, most)
    }

    fn dataset(
        &self,
        split: Split,
        config: &DataConfig,
        seed: u64,
        transform: Transform,
        most_samples: u64,
    ) -> Result<Dataset> {
        // A window that holds everything: samples of all places mix.
        let window_chunks = 1 << 20;
        let shuffle = ShuffleConfig { chunk_samples: 1, window_chunks, ..ShuffleConfig::default() };
        let pixels = self.task.pixels();
        let target = TargetConfig { member: "png".into(), pixels };
        let config = DataConfig {
            shuffle,
            curation: None,
            targets: [(TARGET.to_string(), target)].into(),
            ..config.clone()
        };
        let classes = match &self.task {
            PairTask::Depth { .. } => None,
            PairTask::Segmentation { map, .. } => Some(map.clone()),
        };
        let sources = Arc::new(Sources::new(&config)?);
        let shard = ShardAddress::Bundle(self.bundles[split as usize].clone());
        Dataset::for_pairs(&config, seed, sources, shard, transform, classes, most_samples)
            .with_context(|| self.name.clone())
    }
}

/// Warns where a list is not the one that figures are published for.
pub fn compare(name: &str, split: Split, pairs: &[Pair], lines: usize, sha256: &str) {
    let (found, sum) = (pairs.len(), super::list::sha256(pairs));
    if found != lines {
        warn!(
            "{name}: its {} list has {found} pairs, the one of the published figures {lines}: figures are \
             not comparable with those",
            split.name()
        );
    } else if sum != sha256 {
        warn!(
            "{name}: its {} list has as many pairs as the one of the published figures, {lines}, but \
             others: figures are not comparable with those",
            split.name()
        );
    }
}
