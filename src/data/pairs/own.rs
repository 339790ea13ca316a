//! A data set of one's own, described in a table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::list::{self, Pair, Split};
use super::masks::MaskForm;
use super::set::{PairSet, PairTask};
use crate::image::{ClassMap, CropBox, IGNORED_CLASS};

/// Images and targets, and what the targets say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnSet {
    /// What it is called in messages and results.
    pub name: String,
    /// The folder that all paths are relative to.
    pub root: PathBuf,
    pub train: OwnSplit,
    pub test: OwnSplit,
    pub targets: OwnTask,
}

/// Where the pairs of a split are: a list, or two patterns.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OwnSplit {
    /// A file of lines `IMAGE TARGET`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<PathBuf>,
    /// Images, with one `*`: `train/*_image.jpg`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<String>,
    /// Their targets, where the `*` stands for the same: `train/*_mask.png`; `depths` says the same.
    #[serde(alias = "depths", skip_serializing_if = "Option::is_none")]
    pub masks: Option<String>,
}

/// What the targets say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case", deny_unknown_fields)]
pub enum OwnTask {
    /// 16-bit PNG files; 0 is no reading.
    Depth {
        /// Stored depth of a metre: 1000 for millimetres.
        divisor: f64,
        /// Least depth that counts, in metres.
        #[serde(default = "least")]
        least: f64,
        /// Greatest depth that counts and that is predicted, in metres.
        most: f64,
        /// Rows and columns that are seen of every image: `{ top, left, height, width }`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bounds: Option<CropBox>,
    },
    /// PNG files of grey levels or palette indices.
    Segmentation {
        classes: usize,
        /// Stored number of pixels that do not count.
        #[serde(default = "ignored")]
        ignored: u8,
        /// Class of each stored number, where they are not the same: `{ 1 = 0, 2 = 1 }`; what is not
        /// named is an error.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        map: BTreeMap<String, u8>,
        /// `"official"`: 0 does not count and classes are from 1; `"converted"`: classes are from 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        masks: Option<MaskForm>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        names: Vec<String>,
        /// The longer side of a training image is drawn between these multiples of itself.
        #[serde(default = "scale")]
        scale: [f64; 2],
    },
}

impl OwnSet {
    /// Makes the lists, and looks at the files.
    ///
    /// # Errors
    /// The table contradicts itself, or files are missing or not what they should be.
    pub fn open(&self) -> Result<PairSet> {
        let lists = [
            self.train.pairs(&self.root, Split::Train)?,
            self.test.pairs(&self.root, Split::Test)?,
        ];
        PairSet::new(self.name.clone(), self.root.clone(), self.targets.task()?, lists)
    }
}

impl OwnSplit {
    fn pairs(&self, root: &Path, split: Split) -> Result<Vec<Pair>> {
        let name = split.name();
        let mut pairs = match (&self.list, &self.images, &self.masks) {
            (Some(path), None, None) => list::read(&root.join(path))?,
            (None, Some(images), Some(targets)) => matching(root, images, targets)
                .with_context(|| format!("{name}.images = \"{images}\""))?,
            _ => anyhow::bail!("{name}: expected either `list`, or `images` and `masks`"),
        };
        pairs.sort_unstable();
        Ok(pairs)
    }
}

/// The pairs whose images match the first pattern; targets need not be there.
fn matching(root: &Path, images: &str, targets: &str) -> Result<Vec<Pair>> {
    let parts = |pattern: &str| {
        let (before, after) = pattern.split_once('*')?;
        (!after.contains('*')).then(|| [before.to_string(), after.to_string()])
    };
    let one = |pattern: &str| {
        parts(pattern).with_context(|| format!("found `{pattern}`, expected one `*` in it"))
    };
    let ([before, after], [target_before, target_after]) = (one(images)?, one(targets)?);
    let pattern = root.join(images);
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    let mut pairs = Vec::new();
    for path in glob::glob_with(&pattern.to_string_lossy(), options)? {
        let path = path?;
        let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        let star = relative.strip_prefix(&before).and_then(|rest| rest.strip_suffix(&after));
        if let Some(star) = star {
            let target = format!("{target_before}{star}{target_after}");
            pairs.push(Pair { image: relative, target });
        }
    }
    ensure!(!pairs.is_empty(), "matches no file below {}", root.display());
    Ok(pairs)
}

impl OwnTask {
    fn task(&self) -> Result<PairTask> {
        match self {
            Self::Depth { divisor, least, most, bounds } => {
                ensure!(
                    *divisor > 0.0,
                    "targets.divisor: found {divisor}, expected a number above 0"
                );
                ensure!(
                    0.0 < *least && least < most,
                    "targets.most: found {most}, expected more than targets.least = {least}, above 0"
                );
                Ok(PairTask::Depth { divisor: *divisor, range: [*least, *most], bounds: *bounds })
            }
            Self::Segmentation { classes, ignored, map, masks, names, scale } => {
                ensure!(
                    (1..=255).contains(classes),
                    "targets.classes: found {classes}, expected 1 to 255"
                );
                ensure!(
                    names.is_empty() || names.len() == *classes,
                    "targets.names: found {} names, expected one for each of {classes} classes",
                    names.len()
                );
                ensure!(
                    0.0 < scale[0] && scale[0] <= scale[1],
                    "targets.scale: found {scale:?}, expected [least, most] above 0"
                );
                let map = class_map(*classes, *ignored, map, *masks)?;
                let (names, scale) = (names.clone(), *scale);
                Ok(PairTask::Segmentation { classes: *classes, map, names, scale })
            }
        }
    }
}

fn class_map(
    classes: usize,
    ignored: u8,
    map: &BTreeMap<String, u8>,
    masks: Option<MaskForm>,
) -> Result<ClassMap> {
    let classes = classes as u8;
    if let Some(form) = masks {
        ensure!(map.is_empty(), "targets.map: cannot stand beside targets.masks");
        return Ok(form.map(classes));
    }
    let mut of = [None; 256];
    of[usize::from(ignored)] = Some(IGNORED_CLASS);
    for (stored, &class) in map {
        let number: u8 = stored
            .parse()
            .with_context(|| format!("targets.map: found the key `{stored}`, expected 0 to 255"))?;
        ensure!(
            class < classes || class == IGNORED_CLASS,
            "targets.map: found class {class} for {stored}, expected one below {classes}, or 255"
        );
        of[usize::from(number)] = Some(class);
    }
    if map.is_empty() {
        let same = (0..classes).filter(|&class| class != ignored);
        same.for_each(|class| of[usize::from(class)] = Some(class));
    }
    Ok(ClassMap::new(|stored| of[usize::from(stored)]))
}

fn least() -> f64 {
    0.001
}
fn ignored() -> u8 {
    IGNORED_CLASS
}
fn scale() -> [f64; 2] {
    [0.5, 2.0]
}
