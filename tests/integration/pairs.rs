//! Dense data sets of files: golden transforms (Pillow's), lists in every layout, bad files, and batches
//! from worker processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use distill::config::DataConfig;
use distill::data::image::{
    ClassMap, CropBox, DenseGeometry, DenseMap, DensePixels, Image, decode, dense_transform, resize,
};
use distill::data::pairs::{
    KnownSet, MaskForm, OwnSet, OwnSplit, OwnTask, PairSet, PairSource, Split, TARGET, masks_of,
};
use distill::data::{Dataset, Loader, RankBatches};
use serde::Deserialize;
use tch::{Kind, Tensor};
use tempfile::TempDir;

use crate::support::golden::{Tensors, cases, read};

#[derive(Deserialize)]
struct Case {
    mean: [f64; 3],
    std: [f64; 3],
    pictures: Vec<Picture>,
    entries: Vec<Entry>,
    /// Width, height, least and greatest longer side, one drawn, new width and height.
    sizes: Vec<[usize; 7]>,
}

#[derive(Deserialize)]
struct Picture {
    picture: String,
    target: String,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    dataset: String,
    mode: String,
    picture: String,
    crop_size: Option<usize>,
    #[serde(default)]
    flip: bool,
    #[serde(default)]
    top: usize,
    #[serde(default)]
    left: usize,
    long_side: Option<usize>,
    stride: Option<i64>,
}

impl Entry {
    fn geometry(&self, width: usize, height: usize) -> DenseGeometry {
        let whole = CropBox { left: 0, top: 0, width, height };
        let nyu = CropBox { left: 41, top: 45, width: 560, height: 426 };
        let bounds = if self.dataset == "nyuv2" { nyu } else { whole };
        let seen = [bounds.width, bounds.height];
        let size = self.long_side.map_or(seen, |long| dense_transform::resized(seen, long));
        let out = self.crop_size.map_or(seen, |side| [side; 2]);
        let (left, top, mirrored) = (self.left, self.top, self.flip);
        assert_eq!(self.mode == "train", self.crop_size.is_some());
        DenseGeometry { bounds, size, left, top, out, mirrored }
    }

    fn pixels(&self) -> DensePixels {
        let is_depth = ["nyuv2", "kitti"].contains(&&*self.dataset);
        if is_depth { DensePixels::Depth } else { DensePixels::Classes }
    }
}

/// What is cut of every image and target, given the draws.
#[test]
fn golden_dense_transforms() {
    let folders: Vec<_> = cases(&["case.json", "nyu_depth.png"]);
    assert!(!folders.is_empty(), "no golden transforms");
    for folder in folders {
        let case: Case =
            serde_json::from_slice(&fs::read(folder.join("case.json")).unwrap()).unwrap();
        let expected = read(folder.join("expected.safetensors"));
        for entry in &case.entries {
            check_entry(&folder, &case, entry, &expected);
        }
        for &[width, height, least, most, long, new_width, new_height] in &case.sizes {
            let sides = dense_transform::long_sides([width, height], [0.5, 2.0]);
            assert_eq!(sides, [least, most], "{width}×{height}");
            let size = dense_transform::resized([width, height], long);
            assert_eq!(size, [new_width, new_height], "{width}×{height} to {long}");
        }
        for (raw, classes) in [("loveda_raw", 7), ("ade20k_raw", 150)] {
            let mask = folder.join(format!("{raw}.png"));
            assert_eq!(masks_of(raw, &[&mask], classes).unwrap(), MaskForm::Official);
            let map = MaskForm::Official.map(classes);
            let found = target(&mask, None, DensePixels::Classes, Some(&map));
            let golden = &expected[&format!("{raw}.target")];
            assert_eq!(found, *golden, "{raw}");
        }
    }
}

fn check_entry(folder: &Path, case: &Case, entry: &Entry, expected: &Tensors) {
    let Entry { name, picture, .. } = entry;
    let mut image = Image::default();
    decode::decode(&fs::read(folder.join(picture)).unwrap(), 1 << 30, &mut image).unwrap();
    let geometry = entry.geometry(image.width, image.height);
    let [width, height] = geometry.out;
    let mut pixels = vec![7; width * height * 3];
    let mut resizer = resize::CropResizer::default();
    geometry.cut_image(&image, &mut resizer, &mut pixels).unwrap();
    let pixels = Tensor::from_slice(&pixels).view([height as i64, width as i64, 3]);

    if let Some(golden) = expected.get(&format!("{name}.pixels")) {
        let off = (pixels.to_kind(Kind::Int) - golden.to_kind(Kind::Int)).abs().max();
        assert!(off.int64_value(&[]) <= 1, "{name}: a pixel is {off:?} off");
    }
    if let Some(golden) = expected.get(&format!("{name}.image")) {
        let of =
            |values: [f64; 3]| Tensor::from_slice(&values).to_kind(Kind::Float).view([3, 1, 1]);
        let image = pixels.permute([2, 0, 1]).to_kind(Kind::Float) / 255.0;
        let image = every(&((image - of(case.mean)) / of(case.std)), entry.stride);
        let tolerance = if entry.long_side.is_some() { 2e-2 } else { 1e-6 };
        let off = (image - golden).abs().max().double_value(&[]);
        assert!(off <= tolerance, "{name}: {off:.1e} off");
    }
    let stored = case.pictures.iter().find(|known| known.picture == *picture).unwrap();
    let path = folder.join(&stored.target);
    let found = target(&path, Some((&image, geometry)), entry.pixels(), None);
    let golden = &expected[&format!("{name}.target")];
    match entry.pixels() {
        DensePixels::Classes => assert_eq!(every(&found, entry.stride), *golden, "{name}"),
        DensePixels::Depth => {
            let divisor = if entry.dataset == "nyuv2" { 1000.0 } else { 256.0 };
            let metres = every(&(found.to_kind(Kind::Float) / divisor), entry.stride);
            let off = (metres - golden).abs().max().double_value(&[]);
            assert!(off <= 1e-6, "{name}: depth {off:.1e} off");
        }
    }
}

/// Every so many rows and columns, the last two dimensions.
fn every(tensor: &Tensor, stride: Option<i64>) -> Tensor {
    let Some(stride) = stride else { return tensor.shallow_clone() };
    tensor.slice(-2, None, None, stride).slice(-1, None, None, stride)
}

/// A target as it is cut, or whole.
fn target(
    path: &Path,
    cut: Option<(&Image, DenseGeometry)>,
    pixels: DensePixels,
    classes: Option<&ClassMap>,
) -> Tensor {
    let encoded = fs::read(path).unwrap();
    let mut map = DenseMap::default();
    let (width, height) = match cut {
        Some((image, _)) => (image.width, image.height),
        None => {
            let size = image::image_dimensions(path).unwrap();
            (size.0 as usize, size.1 as usize)
        }
    };
    map.decode_for((width, height), &encoded, pixels, 1 << 30).unwrap();
    let (columns, rows) = match cut {
        Some((_, geometry)) => (geometry.sources(0), geometry.sources(1)),
        None => ((0..width).map(Some).collect(), (0..height).map(Some).collect()),
    };
    let mut out = vec![9; columns.len() * rows.len() * pixels.bytes()];
    map.pick([&columns, &rows], pixels, classes, &mut out).unwrap();
    let shape = [rows.len() as i64, columns.len() as i64];
    match pixels {
        DensePixels::Classes => Tensor::from_slice(&out).view(shape),
        DensePixels::Depth => {
            let numbers =
                out.as_chunks::<2>().0.iter().map(|&two| i32::from(u16::from_ne_bytes(two)));
            Tensor::from_slice(&numbers.collect::<Vec<_>>()).view(shape)
        }
    }
}

/// A root of files that are made as a test needs them.
struct Root(TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().to_path_buf()
    }

    fn file(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn image(&self, name: &str, width: u32, height: u32) {
        let draw = |x: u32, y: u32| image::Rgb([(x * 3) as u8, (y * 5) as u8, name.len() as u8]);
        image::RgbImage::from_fn(width, height, draw).save(self.file(name)).unwrap();
    }

    fn mask(&self, name: &str, width: u32, height: u32, class: impl Fn(u32, u32) -> u8) {
        let draw = |x, y| image::Luma([class(x, y)]);
        image::GrayImage::from_fn(width, height, draw).save(self.file(name)).unwrap();
    }

    fn depth(&self, name: &str, width: u32, height: u32, depth: impl Fn(u32, u32) -> u16) {
        let draw = |x, y| image::Luma([depth(x, y)]);
        let image: image::ImageBuffer<image::Luma<u16>, _> =
            image::ImageBuffer::from_fn(width, height, draw);
        image.save(self.file(name)).unwrap();
    }

    fn text(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
    }
}

fn names(set: &PairSet, split: Split) -> Vec<String> {
    set.pairs(split).iter().map(|pair| format!("{} {}", pair.image, pair.target)).collect()
}

/// Every known layout gives its lists; KITTI's needs Eigen's, of which lines without a target are left
/// out.
#[test]
fn known_layouts_give_their_lists() {
    let root = Root::new();
    for folder in ["sync/kitchen", "official_splits/test/office"] {
        root.image(&format!("{folder}/rgb_00004.jpg"), 640, 480);
        root.depth(&format!("{folder}/sync_depth_00004.png"), 640, 480, |_, _| 2000);
    }
    let nyu = PairSource::known(KnownSet::Nyuv2, root.path()).open().unwrap();
    assert_eq!(
        names(&nyu, Split::Train),
        ["sync/kitchen/rgb_00004.jpg sync/kitchen/sync_depth_00004.png"]
    );
    assert!(names(&nyu, Split::Test)[0].starts_with("official_splits/test/office/rgb_"));

    let root = Root::new();
    let error =
        format!("{:#}", PairSource::known(KnownSet::Kitti, root.path()).open().unwrap_err());
    assert!(error.contains("kitti_eigen_train_files_with_gt.txt"), "{error}");
    let (image, target) = ("day/drive/image_02/data/7.png", "drive/groundtruth/7.png");
    root.image(&format!("images/{image}"), 300, 260);
    root.depth(&format!("annotations/{target}"), 300, 260, |x, _| x as u16);
    let list = format!("{image} {target} 721.5\nother.png None 721.5\n");
    root.text("kitti_eigen_train_files_with_gt.txt", &list);
    root.text("eigen_test_files_with_gt.txt", &list);
    let kitti = PairSource::known(KnownSet::Kitti, root.path()).open().unwrap();
    assert_eq!(names(&kitti, Split::Test), [format!("images/{image} annotations/{target}")]);

    let root = Root::new();
    for name in ["a", "b", "c"] {
        root.image(&format!("JPEGImages/{name}.jpg"), 40, 30);
        root.mask(&format!("SegmentationClass/{name}.png"), 40, 30, |x, _| (x % 21) as u8);
    }
    root.text("ImageSets/Segmentation/val.txt", "b\n");
    let pascal = PairSource::known(KnownSet::Pascal, root.path()).open().unwrap();
    assert_eq!(names(&pascal, Split::Test), ["JPEGImages/b.jpg SegmentationClass/b.png"]);
    assert_eq!(names(&pascal, Split::Train).len(), 2);
}

/// Downloaded and converted masks are told apart, or asked for.
#[test]
fn forms_of_masks_are_told_or_asked_for() {
    let ade = |official: bool, most: u8| {
        let root = Root::new();
        for part in ["training", "validation"] {
            root.image(&format!("images/{part}/ADE_1.jpg"), 40, 30);
            root.mask(&format!("annotations/{part}/ADE_1.png"), 40, 30, |x, y| match (x, y) {
                (0, 0) => {
                    if official {
                        0
                    } else {
                        255
                    }
                }
                (0, 1) => most,
                _ => 5,
            });
        }
        let opened = PairSource::known(KnownSet::Ade20k, root.path()).open();
        let set = opened.map_err(|error| format!("{error:#}"))?;
        let dataset = set.test(&DataConfig::minimal(Vec::new())).unwrap();
        let mut sample = vec![0; dataset.sample_bytes()];
        dataset.fill(&mut Default::default(), 0, &mut sample).unwrap().unwrap();
        let mask = &sample[40 * 30 * 3..];
        Ok::<_, String>((mask[0], mask[40], mask[1]))
    };
    assert_eq!(ade(true, 150), Ok((255, 149, 4)));
    assert_eq!(ade(false, 149), Ok((255, 149, 5)));
    let unclear = ade(true, 149).unwrap_err();
    assert!(unclear.contains("say masks = \"official\" or \"converted\""), "{unclear}");
    let mixed = ade(false, 150).unwrap_err();
    assert!(mixed.contains("mixed"), "{mixed}");
}

fn own(root: &Root, targets: OwnTask) -> OwnSet {
    let split = OwnSplit {
        images: Some("images/*.png".into()),
        masks: Some("targets/*.png".into()),
        ..OwnSplit::default()
    };
    OwnSet { name: "mine".into(), root: root.path(), train: split.clone(), test: split, targets }
}

fn segmentation(classes: usize) -> OwnTask {
    toml::from_str(&format!("task = \"segmentation\"\nclasses = {classes}")).unwrap()
}

fn depth() -> OwnTask {
    toml::from_str("task = \"depth\"\ndivisor = 1000.0\nmost = 10.0").unwrap()
}

/// One clear error for each kind of bad file, before anything is trained.
#[test]
fn bad_files_are_named() {
    let error_of = |prepare: &dyn Fn(&Root), targets: OwnTask| {
        let root = Root::new();
        root.image("images/a.png", 40, 30);
        prepare(&root);
        format!("{:#}", own(&root, targets).open().unwrap_err())
    };
    for (prepare, targets, says) in [
        (&(|_: &Root| ()) as &dyn Fn(&Root), segmentation(3), "targets/a.png"),
        (
            &|root| root.mask("targets/a.png", 30, 40, |_, _| 0),
            segmentation(3),
            "30×40 pixels; expected the image's 40×30",
        ),
        (
            &|root| root.mask("targets/a.png", 40, 30, |x, _| (x == 9) as u8 * 3),
            segmentation(3),
            "pixels of class 3, which is none of the 3 classes",
        ),
        (
            &|root| root.mask("targets/a.png", 40, 30, |_, _| 9),
            depth(),
            "expected depth in grey levels of 16 bits",
        ),
        (
            &|root| root.depth("targets/a.png", 40, 30, |_, _| 0),
            depth(),
            "no pixel has a depth that counts",
        ),
        (
            &|root| root.depth("targets/a.png", 40, 30, |_, _| 10_001),
            depth(),
            "no pixel has a depth that counts",
        ),
        (&|root| root.text("targets/a.png", "no image"), segmentation(3), "targets/a.png"),
    ] {
        let error = error_of(prepare, targets);
        assert!(error.contains(says), "`{says}` is not in: {error}");
    }
    let root = Root::new();
    root.image("elsewhere/a.png", 4, 4);
    let error = format!("{:#}", own(&root, depth()).open().unwrap_err());
    assert!(
        error.contains("train.images = \"images/*.png\"") && error.contains("matches no file"),
        "{error}"
    );
}

/// A set of six images of two sizes, and what is expected of class and pixel at each place.
fn six(root: &Root) -> Arc<PairSet> {
    for number in 0..6 {
        let width = 36 + 4 * (number % 2);
        root.image(&format!("images/{number}.png"), width, 34);
        root.mask(&format!("targets/{number}.png"), width, 34, move |_, _| number as u8);
    }
    Arc::new(own(root, segmentation(6)).open().unwrap())
}

fn config() -> DataConfig {
    DataConfig {
        input_size: 32,
        batch_size: 3,
        workers: 2,
        max_failed_share: 0.0,
        ..DataConfig::minimal(Vec::new())
    }
}

fn loader(
    dataset: Dataset,
    ranges: impl Iterator<Item = std::ops::Range<u64>> + Send + 'static,
) -> Loader {
    let program = Path::new(env!("CARGO_BIN_EXE_distill-worker"));
    Loader::start(Arc::new(dataset), &config(), program, ranges).unwrap()
}

/// Every pass sees every pair once, in another order; ranks together see what one would.
#[test]
fn training_sees_every_pair_once_in_each_pass() {
    let root = Root::new();
    let set = six(&root);
    let classes = |rank: u64, world_size: u64| {
        let batches = RankBatches { positions: 0..18, global_batch: 6, batch: 3, rank, world_size };
        let mut loader = loader(set.training(&config(), 5).unwrap(), batches.ranges());
        let mut found = Vec::new();
        while let Some(batch) = loader.next_batch().unwrap() {
            let target = batch.target(TARGET).unwrap();
            // What is beyond a shrunk image counts for nothing; its own pixels are all of one class.
            let one = |mask: &[u8]| {
                let mut own: Vec<u8> = mask.iter().copied().filter(|&class| class != 255).collect();
                own.dedup();
                assert_eq!(own.len(), 1);
                own[0]
            };
            found.extend(target.chunks(32 * 32).map(one));
        }
        found
    };
    let alone = classes(0, 1);
    assert_eq!(alone.len(), 18);
    let passes: Vec<&[u8]> = alone.chunks(6).collect();
    for pass in &passes {
        let mut sorted = pass.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5]);
    }
    assert!(passes[0] != passes[1] || passes[1] != passes[2], "another order in each pass");
    let (first, second) = (classes(0, 2), classes(1, 2));
    let together: Vec<u8> =
        first.chunks(3).zip(second.chunks(3)).flat_map(|(a, b)| [a, b].concat()).collect();
    assert_eq!(together, alone);
}

/// A test pass sees every image whole and in order, at its own size.
#[test]
fn a_test_pass_sees_whole_images() {
    let root = Root::new();
    let set = six(&root);
    let mut loader = loader(set.test(&config()).unwrap(), (0..6u64).map(|at| at..at + 1));
    for number in 0..6u8 {
        let batch = loader.next_batch().unwrap().unwrap();
        let (width, height) = batch.images[0].unwrap().size();
        assert_eq!((width, height), (36 + 4 * usize::from(number % 2), 34));
        let pixels = &batch.images()[..width * height * 3];
        let expected = image::open(root.path().join(format!("images/{number}.png"))).unwrap();
        assert!(pixels == expected.to_rgb8().as_raw().as_slice(), "image {number}");
        let target = &batch.target(TARGET).unwrap()[..width * height];
        assert!(target.iter().all(|&class| class == number));
    }
    assert!(loader.next_batch().unwrap().is_none());
}
