//! The data sets that encoders' figures are published for, in the layouts that users have on disk.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::list::{self, Pair, Split};
use super::masks::{MaskForm, form_of};
use super::set::{PairTask, compare};
use crate::image::CropBox;

/// A known data set. Lists and layouts are described in docs/EVALUATION.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KnownSet {
    Nyuv2,
    Kitti,
    Ade20k,
    Pascal,
    Loveda,
}

/// The rows and columns of NYUv2 that hold a picture.
const NYU_BOUNDS: CropBox = CropBox { left: 41, top: 45, width: 560, height: 426 };

/// Pascal VOC's classes.
const PASCAL_CLASSES: [&str; 21] = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
];

/// LoveDA's classes.
const LOVEDA_CLASSES: [&str; 7] =
    ["background", "building", "road", "water", "barren", "forest", "agriculture"];

/// Lists that come with the data of BTS and ZoeDepth, below the root or given by hand.
const NYU_LISTS: [&str; 2] =
    ["nyudepthv2_train_files_with_gt.txt", "nyudepthv2_test_files_with_gt.txt"];
const KITTI_LISTS: [[&str; 2]; 2] = [
    ["kitti_eigen_train_files_with_gt.txt", "eigen_train_files_with_gt.txt"],
    ["kitti_eigen_test_files_with_gt.txt", "eigen_test_files_with_gt.txt"],
];

impl KnownSet {
    /// As configurations name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nyuv2 => "nyuv2",
            Self::Kitti => "kitti",
            Self::Ade20k => "ade20k",
            Self::Pascal => "pascal",
            Self::Loveda => "loveda",
        }
    }

    /// Number of classes of its masks; none where targets are depths.
    pub fn classes(self) -> Option<usize> {
        match self {
            Self::Nyuv2 | Self::Kitti => None,
            Self::Ade20k => Some(150),
            Self::Pascal => Some(PASCAL_CLASSES.len()),
            Self::Loveda => Some(LOVEDA_CLASSES.len()),
        }
    }

    /// Pairs, and SHA-256 of the list, of the published figures.
    fn published(self, split: Split) -> (usize, &'static str) {
        let [train, test] = match self {
            Self::Nyuv2 => [
                (24_231, "63d35def860e12a882565dbfecc002a69396cb1d76c8328266c74b7ebe95fdfa"),
                (654, "37496f6ebbb753d7bb58f602ceda825363ef7ce57cfaa7e5da07ecc1521a271d"),
            ],
            Self::Kitti => [
                (23_158, "cdb1415f746918dda2c099fe69b6ff5a3d4336f3d4550c69f15edcaa5f737b6c"),
                (652, "a168b1d03382977e0149e0f9822b9c860a629b047aba5f0cc3816b01a874e929"),
            ],
            Self::Ade20k => [
                (20_210, "52146240194d375841c1759ae63fa18f5c4ddedf8fc9e24008614ebd760cb19d"),
                (2_000, "8a733f0c20d8f6cd6450b775a2f9e0d9d328af6d8a3aaf50db55d964d18d584c"),
            ],
            Self::Pascal => [
                (10_582, "f04ab664c71f84950a3a1fd28544b6851500c81a9aff890c4b9279639a32152c"),
                (1_449, "df002e3a730c57678f63aa3e46a4c827a4066f1dc1814e24d0e8b215075e0c6c"),
            ],
            Self::Loveda => [
                (2_522, "87053e414fd821d8d3f6bd467a9539626a8485b545913330c1668192682ac540"),
                (1_669, "f9de865e6666be23361243d90458a1e5878757acfb00f542065c1d19f41adf48"),
            ],
        };
        if split == Split::Train { train } else { test }
    }

    /// The pairs of a split, from a `given` list or from what is below `root`, in byte order. A warning
    /// says where it is not the list of the published figures.
    ///
    /// # Errors
    /// A folder or list is missing; the message says which was looked for.
    pub fn pairs(self, root: &Path, split: Split, given: Option<&Path>) -> Result<Vec<Pair>> {
        let list = given.map(Path::to_path_buf).or_else(|| self.list_below(root, split));
        let mut pairs = match list {
            Some(list) => self.of_list(&list, split)?,
            None => self.scan(root, split).with_context(|| {
                format!("{}: no list of its {} pairs", self.name(), split.name())
            })?,
        };
        pairs.sort_unstable();
        pairs.dedup();
        let (lines, sha256) = self.published(split);
        compare(self.name(), split, &pairs, lines, sha256);
        Ok(pairs)
    }

    /// A list that lies below the root under the name that its makers gave it.
    fn list_below(self, root: &Path, split: Split) -> Option<PathBuf> {
        let number = usize::from(split == Split::Test);
        let names: &[&str] = match self {
            Self::Nyuv2 => &NYU_LISTS[number..=number],
            Self::Kitti => &KITTI_LISTS[number],
            Self::Ade20k | Self::Pascal | Self::Loveda => &[],
        };
        names.iter().map(|name| root.join(name)).find(|path| path.is_file())
    }

    /// The pairs of a list of ours, or one of BTS and ZoeDepth, whose paths begin further down.
    fn of_list(self, list: &Path, split: Split) -> Result<Vec<Pair>> {
        let [image, target] = match (self, split) {
            (Self::Nyuv2, Split::Train) => ["sync/"; 2],
            (Self::Nyuv2, Split::Test) => ["official_splits/test/"; 2],
            (Self::Kitti, _) => ["images/", "annotations/"],
            _ => [""; 2],
        };
        let below = |prefix: &str, path: String| match path.starts_with(prefix) {
            true => path,
            false => format!("{prefix}{path}"),
        };
        let pairs = list::read(list)?.into_iter();
        Ok(pairs
            .map(|pair| Pair {
                image: below(image, pair.image),
                target: below(target, pair.target),
            })
            .collect())
    }

    /// The pairs that lie below the root.
    fn scan(self, root: &Path, split: Split) -> Result<Vec<Pair>> {
        match (self, split) {
            (Self::Nyuv2, Split::Train) => nyu(root, "sync"),
            (Self::Nyuv2, Split::Test) => nyu(root, "official_splits/test"),
            (Self::Kitti, _) => bail!(
                "Eigen's split cannot be found by looking at the files: put {} into {}, or name a list",
                KITTI_LISTS[usize::from(split == Split::Test)][0],
                root.display()
            ),
            (Self::Ade20k, Split::Train) => ade20k(root, "training"),
            (Self::Ade20k, Split::Test) => ade20k(root, "validation"),
            (Self::Pascal, _) => pascal(root, split),
            (Self::Loveda, Split::Train) => loveda(root, "Train/Train"),
            (Self::Loveda, Split::Test) => loveda(root, "Val/Val"),
        }
    }

    /// What is predicted. The form of masks that is not `given` is told by some of them.
    ///
    /// # Errors
    /// Nothing tells the form of the masks, or they cannot be read.
    pub fn task(
        self,
        root: &Path,
        [train, _]: &[Vec<Pair>; 2],
        given: Option<MaskForm>,
    ) -> Result<PairTask> {
        let named = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (classes, names, form) = match self {
            Self::Nyuv2 => {
                let (divisor, range, bounds) = (1000.0, [0.001, 10.0], Some(NYU_BOUNDS));
                return Ok(PairTask::Depth { divisor, range, bounds });
            }
            Self::Kitti => {
                return Ok(PairTask::Depth { divisor: 256.0, range: [0.001, 80.0], bounds: None });
            }
            Self::Ade20k => (150, Vec::new(), form_of(self.name(), given, root, train, 150)?),
            Self::Loveda => {
                (7, named(&LOVEDA_CLASSES), form_of(self.name(), given, root, train, 7)?)
            }
            // Background is a class of its own, and 255 the border of objects.
            Self::Pascal => (21, named(&PASCAL_CLASSES), given.unwrap_or(MaskForm::Converted)),
        };
        let map = form.map(classes);
        Ok(PairTask::Segmentation { classes: usize::from(classes), map, names, scale: [0.5, 2.0] })
    }
}

/// `FOLDER/SCENE/rgb_N.jpg` with `sync_depth_N.png` beside it.
fn nyu(root: &Path, folder: &str) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    let at = root.join(folder);
    for scene in list::names(&at, |_| true)? {
        let scene_folder = at.join(&scene);
        if !scene_folder.is_dir() {
            continue;
        }
        for image in list::names(&scene_folder, |name| name.starts_with("rgb_"))? {
            let number = image.trim_start_matches("rgb_").split('.').next().unwrap_or_default();
            pairs.push(Pair {
                target: format!("{folder}/{scene}/sync_depth_{number}.png"),
                image: format!("{folder}/{scene}/{image}"),
            });
        }
    }
    ensure!(!pairs.is_empty(), "looked for {}/SCENE/rgb_NNNNN.jpg", at.display());
    Ok(pairs)
}

/// `images/PART/NAME.jpg` with `annotations/PART/NAME.png`.
fn ade20k(root: &Path, part: &str) -> Result<Vec<Pair>> {
    let images = list::names(&root.join("images").join(part), |name| name.ends_with(".jpg"))?;
    ensure!(!images.is_empty(), "looked for {}/images/{part}/*.jpg", root.display());
    Ok(images
        .into_iter()
        .map(|image| Pair {
            target: format!("annotations/{part}/{}.png", image.trim_end_matches(".jpg")),
            image: format!("images/{part}/{image}"),
        })
        .collect())
}

/// Every mask of `SegmentationClass` but those that VOC's list of validation names; those are the test.
fn pascal(root: &Path, split: Split) -> Result<Vec<Pair>> {
    let path = root.join("ImageSets/Segmentation/val.txt");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("looked for {}, the names of the test", path.display()))?;
    let test: Vec<&str> = text.split_whitespace().collect();
    let names: Vec<String> = match split {
        Split::Test => test.iter().map(ToString::to_string).collect(),
        Split::Train => {
            let test: std::collections::HashSet<&str> = test.into_iter().collect();
            let masks =
                list::names(&root.join("SegmentationClass"), |name| name.ends_with(".png"))?;
            let names = masks.iter().map(|mask| mask.trim_end_matches(".png").to_string());
            names.filter(|name| !test.contains(name.as_str())).collect()
        }
    };
    let pair = |name: String| Pair {
        image: format!("JPEGImages/{name}.jpg"),
        target: format!("SegmentationClass/{name}.png"),
    };
    Ok(names.into_iter().map(pair).collect())
}

/// `PART/{Rural,Urban}/images_png/N.png` with `masks_png/N.png`.
fn loveda(root: &Path, part: &str) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for scene in ["Rural", "Urban"] {
        let folder = format!("{part}/{scene}");
        let images = root.join(&folder).join("images_png");
        for image in list::names(&images, |name| name.ends_with(".png"))? {
            pairs.push(Pair {
                image: format!("{folder}/images_png/{image}"),
                target: format!("{folder}/masks_png/{image}"),
            });
        }
    }
    ensure!(!pairs.is_empty(), "looked for {}/{part}/Rural/images_png/*.png", root.display());
    Ok(pairs)
}
