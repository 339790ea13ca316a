//! The `[data]` table of a configuration: which images, how they are cropped, how many at a time.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use crate::image::{DensePixels, Exif};
use crate::labels::{LabelRule, Wanted, read_classes};

/// Images: where they are, which are kept, how they are cropped, how many at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Tar shards: paths and `s3://bucket/key` with `*` wildcards and `{000..127}` brace ranges,
    /// `https://` and `http://` URLs with brace ranges.
    pub shards: Vec<String>,
    /// Side of the square crop that teacher and students see, in pixels.
    #[serde(default = "input_size")]
    pub input_size: usize,
    /// Images in one forward pass of one process.
    #[serde(default = "batch_size")]
    pub batch_size: usize,
    /// Images in one optimizer step over all processes and accumulation steps. Left out: the
    /// batch size times the number of processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_batch_size: Option<usize>,
    /// Crop area as a share of the image, `[least, most]`.
    #[serde(default = "crop_scale")]
    pub crop_scale: [f64; 2],
    /// Crop width over height, `[least, most]`.
    #[serde(default = "crop_ratio")]
    pub crop_ratio: [f64; 2],
    /// Per channel mean of pixels in `[0, 1]`, subtracted.
    #[serde(default = "imagenet_mean")]
    pub mean: [f64; 3],
    /// Per channel standard deviation of pixels in `[0, 1]`, divided by.
    #[serde(default = "imagenet_std")]
    pub std: [f64; 3],
    /// Decoding worker processes of one training process; 0 takes one per core.
    #[serde(default)]
    pub workers: usize,
    /// Batches held ready ahead of the trainer.
    #[serde(default = "prefetch_batches")]
    pub prefetch_batches: usize,
    /// Most share of images that may fail to decode before the run stops.
    #[serde(default = "max_failed_share")]
    pub max_failed_share: f64,
    /// Where the class of an image stands, for evaluations: the extension of a member beside it, or
    /// `json:FIELD` of a JSON member.
    #[serde(default = "label")]
    pub label: String,
    /// File with the names of the classes in the order of their numbers, where members say names: a JSON
    /// list, or a name a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    /// What a shard that cannot be read means: the end, or that the data set does without it.
    #[serde(default)]
    pub bad_shards: BadShards,
    /// Most share of shards that may be left out as bad.
    #[serde(default = "max_bad_shard_share")]
    pub max_bad_shard_share: f64,
    /// What is made of images that viewers turn by their EXIF tag, in training and evaluation.
    #[serde(default)]
    pub exif: Exif,
    /// Largest image that is decoded, in pixels (width × height).
    #[serde(default = "max_pixels")]
    pub max_pixels: u64,
    /// Decode JPEGs at 1/2, 1/4 or 1/8 of their size where the crop stays at least twice as large
    /// as `input_size`: less work for large images, and a little off from Pillow's pixels.
    #[serde(default)]
    pub reduced_decoding: bool,
    /// Where shard indexes are kept; left out: beside the shards, or in the user's cache folder
    /// where that place is read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_dir: Option<PathBuf>,
    /// Where parts of shards that lie behind URLs are kept; left out: in the user's cache folder.
    /// The processes of a machine share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<PathBuf>,
    /// Bound of that cache, in 10⁹ bytes; the least recently used pieces are evicted.
    #[serde(default = "cache_gigabytes")]
    pub cache_gigabytes: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curation: Option<CurationConfig>,
    #[serde(default)]
    pub shuffle: ShuffleConfig,
    /// Dense targets that are read with every image, by name. No key of a configuration: whoever
    /// needs some asks for them.
    #[serde(skip)]
    pub targets: BTreeMap<String, TargetConfig>,
}

/// What a shard that cannot be read means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadShards {
    /// The data set cannot be opened.
    #[default]
    Stop,
    /// It is left out, with a warning.
    Skip,
}

/// A dense target that every sample carries beside its image: a segmentation mask, a depth map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetConfig {
    /// Extension of the member that holds it: `png` for `KEY.png`, `mask.png` for `KEY.mask.png`.
    pub member: String,
    /// What its pixels are.
    pub pixels: DensePixels,
}

impl DataConfig {
    /// These shards with every default.
    pub fn minimal(shards: Vec<String>) -> Self {
        Self {
            shards,
            input_size: input_size(),
            batch_size: batch_size(),
            global_batch_size: None,
            crop_scale: crop_scale(),
            crop_ratio: crop_ratio(),
            mean: imagenet_mean(),
            std: imagenet_std(),
            workers: 0,
            prefetch_batches: prefetch_batches(),
            max_failed_share: max_failed_share(),
            label: label(),
            classes: None,
            bad_shards: BadShards::default(),
            max_bad_shard_share: max_bad_shard_share(),
            exif: Exif::default(),
            max_pixels: max_pixels(),
            reduced_decoding: false,
            index_dir: None,
            cache_dir: None,
            cache_gigabytes: cache_gigabytes(),
            curation: None,
            shuffle: ShuffleConfig::default(),
            targets: BTreeMap::new(),
        }
    }

    /// Extensions of the members that hold the targets, in the order of their names.
    ///
    /// # Errors
    /// One cannot be an extension, or stands for two targets or for the `label`.
    fn target_members(&self, label: &LabelRule) -> Result<Vec<String>> {
        let mut members: Vec<String> = Vec::new();
        for (name, TargetConfig { member, .. }) in &self.targets {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            ensure!(
                !member.is_empty() && !member.starts_with('.') && member.chars().all(plain),
                "target `{name}`: found member `{member}`, expected an extension such as `mask.png`"
            );
            let taken = members.iter().any(|other| other.eq_ignore_ascii_case(member));
            ensure!(
                !taken && !member.eq_ignore_ascii_case(label.extension()),
                "target `{name}`: member `{member}` stands for something else already"
            );
            members.push(member.clone());
        }
        Ok(members)
    }

    /// What is looked for in shards beside images.
    ///
    /// # Errors
    /// A target's member cannot be an extension, or stands for something else; a wrong `label` or file of
    /// `classes`.
    pub fn wanted(&self) -> Result<Wanted> {
        let classes = self.classes.as_deref().map(read_classes).transpose();
        let classes = classes.context("data.classes")?;
        let label = LabelRule::new(&self.label, classes).map_err(|e| anyhow!("data.label: {e}"))?;
        Ok(Wanted { fields: self.target_members(&label)?, label })
    }

    /// Images of one optimizer step: the configured number, or one batch.
    pub fn images_per_step(&self) -> usize {
        self.global_batch_size.unwrap_or(self.batch_size)
    }
}

/// How the samples of a pass are shuffled: chunks of neighbours over the whole data set, then all
/// samples of a window of chunks. Part of a run's identity, as the seed is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShuffleConfig {
    /// Neighbouring samples that are read together.
    pub chunk_samples: u64,
    /// Chunks whose samples are mixed, and which are being read at a time.
    pub window_chunks: u64,
    /// Windows that give samples in turn, for as many nodes that each read one.
    pub lanes: u64,
    /// Consecutive samples from one lane.
    pub lane_run: u64,
}

impl Default for ShuffleConfig {
    fn default() -> Self {
        Self { chunk_samples: 256, window_chunks: 128, lanes: 1, lane_run: 64 }
    }
}

impl ShuffleConfig {
    /// Whether the numbers fit together.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let Self { chunk_samples, window_chunks, lanes, lane_run } = *self;
        for (key, number) in [
            ("chunk_samples", chunk_samples),
            ("window_chunks", window_chunks),
            ("lanes", lanes),
            ("lane_run", lane_run),
        ] {
            if !(1..=1 << 20).contains(&number) {
                return Err((key, format!("found {number}, expected 1 to {}", 1 << 20)));
            }
        }
        if (chunk_samples * window_chunks).is_multiple_of(lane_run) {
            return Ok(());
        }
        let window = chunk_samples * window_chunks;
        Err(("lane_run", format!("found {lane_run}, expected a divisor of the window's {window}")))
    }
}

/// Selection of web images by the JSON file that stands for each shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurationConfig {
    /// `JSON_ROOT/<shard's folder>/<shard>.json`: member name to scores.
    pub json_root: PathBuf,
    /// Keep images whose colour-histogram score is above this.
    #[serde(default = "min_histogram_score")]
    pub min_histogram_score: f64,
    /// Keep images whose width and height are both at least this, in pixels.
    #[serde(default = "min_side")]
    pub min_side: u64,
    /// Keep a drawn image with probability `mae_loss` (hard images are seen more often).
    #[serde(default = "yes")]
    pub sample_by_hardness: bool,
}

fn input_size() -> usize {
    256
}
fn batch_size() -> usize {
    64
}
fn crop_scale() -> [f64; 2] {
    [0.2, 1.0]
}
fn crop_ratio() -> [f64; 2] {
    [3.0 / 4.0, 4.0 / 3.0]
}
fn imagenet_mean() -> [f64; 3] {
    [0.485, 0.456, 0.406]
}
fn imagenet_std() -> [f64; 3] {
    [0.229, 0.224, 0.225]
}
fn prefetch_batches() -> usize {
    4
}
fn max_failed_share() -> f64 {
    0.01
}
fn label() -> String {
    "cls".into()
}
fn max_bad_shard_share() -> f64 {
    0.5
}
fn max_pixels() -> u64 {
    200_000_000
}
fn cache_gigabytes() -> f64 {
    100.0
}
fn min_histogram_score() -> f64 {
    4.5
}
fn min_side() -> u64 {
    320
}
fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member cannot be target and label at once, wherever the label stands.
    #[test]
    fn a_target_is_no_label() {
        let wanted = |label: &str, member: &str| {
            let target = TargetConfig { member: member.into(), pixels: DensePixels::Classes };
            let mut config = DataConfig { label: label.into(), ..DataConfig::minimal(vec![]) };
            config.targets.insert("mask".into(), target);
            config.wanted().map_err(|error| error.to_string())
        };
        for (label, member) in [("cls", "CLS"), ("json:label", "json"), (".TXT", "txt")] {
            let error = wanted(label, member).unwrap_err();
            assert!(error.contains("stands for something else"), "{label}, {member}: {error}");
        }
        assert_eq!(wanted("json:label", "mask.png").unwrap().fields, ["mask.png"]);
    }
}
