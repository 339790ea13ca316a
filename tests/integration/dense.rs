//! Heads on a frozen encoder: golden steps, windows and figures of depth and segmentation
//! (`tests/golden/make_eval_golden.py`), on the CPU or on `DISTILL_TEST_DEVICE`.

use std::fs;
use std::path::Path;

use distill::config::OptimizerConfig;
use distill::dist::ProcessGroup;
use distill::encoders::{Encoder, EncoderWeights};
use distill::eval::dense::{
    ClassCounts, DenseTask, DepthFigures, DptShape, HeadKind, HeadSchedule, HeadShape, HeadTrainer,
    Merge, Pass, Share, Window, cut_windows, depth_figures, feature_dim, feature_maps,
    mean_of_figures, windows,
};
use distill::nn::{Parameters, Storage};
use serde::Deserialize;
use tch::{Kind, Tensor};

use crate::support::device::device;
use crate::support::golden::{Tensors, assert_close, cases, read, relative_error};

/// Relative tolerance of all but weights.
const VALUES: f64 = 1e-4;
/// Relative tolerance of the change of weights.
const CHANGES: f64 = 1e-2;

#[derive(Deserialize)]
struct Case {
    task: String,
    head: HeadKind,
    encoder: Size,
    #[serde(default)]
    classes: i64,
    #[serde(default)]
    min_depth: f64,
    #[serde(default)]
    max_depth: f64,
    features: Option<i64>,
    out_channels: Option<[i64; 4]>,
    crop_size: i64,
    lr: f64,
    steps: usize,
    epochs: u64,
    iters_per_epoch: u64,
    warmup_fraction: f64,
    power: f64,
    weight_decay: f64,
    betas: [f64; 2],
    eps: f64,
    windows: Vec<Vec<[i64; 4]>>,
}

#[derive(Deserialize)]
struct Size {
    heads: usize,
    depth: usize,
}

impl Case {
    fn task(&self) -> DenseTask {
        match self.task.as_str() {
            "depth" => DenseTask::Depth { least: self.min_depth, most: self.max_depth },
            _ => DenseTask::Segmentation { classes: self.classes },
        }
    }

    fn schedule(&self) -> HeadSchedule {
        let updates = self.epochs * self.iters_per_epoch;
        let warmup = (self.warmup_fraction * updates as f64).floor() as u64;
        HeadSchedule { base: self.lr, updates, warmup, power: self.power }
    }

    fn trainer(&self, features: i64) -> HeadTrainer {
        let dpt = match (self.features, self.out_channels) {
            (Some(fused), Some(stages)) => DptShape { fused, stages },
            _ => DptShape::default(),
        };
        let shape = HeadShape { features, outputs: self.task().outputs(), dpt };
        let optimizer = OptimizerConfig {
            weight_decay: self.weight_decay,
            betas: self.betas,
            eps: self.eps,
            clip_grad_norm: None,
            ..OptimizerConfig::default()
        };
        let head = (self.head.name(), self.head);
        HeadTrainer::new(head, (self.task(), &shape), &optimizer, (0, 0), device(), Kind::Float)
    }
}

/// The golden folders of one task and head.
fn each(task: &str, head: HeadKind, check: impl Fn(&Path, &Case)) {
    let mut found = 0;
    for folder in cases(&["case.json", "head.init.safetensors", "expected.safetensors"]) {
        let case: Case =
            serde_json::from_slice(&fs::read(folder.join("case.json")).unwrap()).unwrap();
        if (&*case.task, case.head) == (task, head) {
            check(&folder, &case);
            found += 1;
        }
    }
    assert!(found > 0, "no case of {task} with {head:?}");
}

fn load_encoder(folder: &Path, case: &Case) -> Box<dyn Encoder> {
    let weights = EncoderWeights::open(&folder.join("encoder.safetensors")).unwrap();
    let stored = weights.measure(Some(case.encoder.heads)).unwrap();
    let mut parameters =
        Parameters::new(Storage::Empty { device: device(), matrices: Kind::Float });
    let grid_size = stored.spec.grid_size(stored.image_size);
    let encoder = stored.spec.build(&mut parameters, grid_size);
    weights.load_into(parameters.named()).unwrap();
    encoder
}

/// Overwrites the tensors of a head with those of a file, which must have the same names.
fn fill(trainer: &HeadTrainer, stored: &Tensors) {
    let tensors = trainer.tensors();
    assert_eq!(tensors.len(), stored.len());
    tch::no_grad(|| {
        for (name, tensor) in tensors {
            tensor.shallow_clone().copy_(&stored[&name]);
        }
    });
}

fn target(task: DenseTask, stored: &Tensor) -> Tensor {
    let kind = match task {
        DenseTask::Depth { .. } => Kind::Float,
        DenseTask::Segmentation { .. } => Kind::Int64,
    };
    stored.to_kind(kind).to_device(device())
}

/// Features, outputs, gradients, losses, rates and weights of some updates, then windows and figures
/// with the weights that these should have led to.
fn check_case(folder: &Path, case: &Case) {
    let what = |part: &str| format!("{}: {part}", folder.display());
    let (batch, expected) =
        (read(folder.join("batch.safetensors")), read(folder.join("expected.safetensors")));
    let encoder = load_encoder(folder, case);
    let blocks = case.head.blocks(case.encoder.depth);
    let task = case.task();
    let mut trainer = case.trainer(feature_dim(&*encoder));
    let initial = read(folder.join("head.init.safetensors"));
    fill(&trainer, &initial);
    let group = ProcessGroup::alone(device(), || false);
    let maps = |key: String| {
        let images = batch[&key].to_device(device());
        feature_maps(&*encoder, &images, &blocks, Kind::Float)
    };

    let first = maps("images.0".into());
    for (number, map) in first.iter().enumerate() {
        let key = format!("tapped.{number}");
        assert_close(map, &expected[&key], VALUES, &what(&key));
    }
    let probe = case.trainer(feature_dim(&*encoder));
    fill(&probe, &initial);
    let output = probe.head().output(&first, Pass::Training(&group), Kind::Float).unwrap();
    assert_close(&output, &expected["head_output.0"], VALUES, &what("head_output.0"));
    let size = [case.crop_size; 2];
    let prediction = probe.predict(&first, size, Pass::Training(&group)).unwrap();
    assert_close(&prediction, &expected["prediction.0"], VALUES, &what("prediction.0"));

    let schedule = case.schedule();
    for step in 0..case.steps {
        let targets = target(task, &batch[&format!("targets.{step}")]);
        let share = Share { images_per_loss: targets.size()[0], losses: 1, is_void: false };
        let maps = maps(format!("images.{step}"));
        let rate = schedule.rate(step as u64);
        let expected_rate = expected[&format!("lr.{step}")].double_value(&[]);
        assert!((rate - expected_rate).abs() <= 1e-6 * case.lr, "{}: {rate}", what("lr"));
        if step == 0 {
            let sums = trainer.backward(&maps, &targets, share, &group).unwrap();
            assert_close(&sums.get(0), &expected["loss.0"], VALUES, &what("loss.0"));
            for (name, gradient) in trainer.gradients() {
                if let Some(golden) = expected.get(&format!("grad.0.{name}")) {
                    assert_close(&gradient, golden, VALUES, &what(&format!("grad.0.{name}")));
                }
            }
            trainer = case.trainer(feature_dim(&*encoder));
            fill(&trainer, &initial);
        }
        let (loss, norm) =
            trainer.update(&maps, &targets, share, rate, &group).unwrap().read().unwrap();
        for (key, found) in [("loss", loss.unwrap()), ("grad_norm", norm)] {
            let key = format!("{key}.{step}");
            assert_close(&Tensor::from(found), &expected[&key], VALUES, &what(&key));
        }
    }
    check_weights(&trainer, &initial, &read(folder.join("head.final.safetensors")), &what);
    fill(&trainer, &read(folder.join("head.final.safetensors")));
    check_test(case, &trainer, &*encoder, &batch, &expected, &what);
}

/// The change of each tensor; those that are never used stay as they were.
fn check_weights(
    trainer: &HeadTrainer,
    initial: &Tensors,
    last: &Tensors,
    what: &dyn Fn(&str) -> String,
) {
    for (name, found) in trainer.tensors() {
        let (found, first) = (found.to_device(tch::Device::Cpu), &initial[&name]);
        if trainer.kind().is_unused(&name) {
            assert_eq!(found, *first, "{}", what(&name));
            continue;
        }
        let error = relative_error(&(&found - first), &(&last[&name] - first));
        assert!(error <= CHANGES, "{}: its change is {error:.1e} off", what(&name));
    }
}

/// Windows, their merged predictions, and figures.
fn check_test(
    case: &Case,
    trainer: &HeadTrainer,
    encoder: &dyn Encoder,
    batch: &Tensors,
    expected: &Tensors,
    what: &dyn Fn(&str) -> String,
) {
    let (task, size) = (case.task(), case.crop_size);
    let blocks = case.head.blocks(case.encoder.depth);
    let mut depths: Vec<DepthFigures> = Vec::new();
    let mut counts = ClassCounts::new(case.classes.max(1), device());
    for (number, listed) in case.windows.iter().enumerate() {
        let image = batch[&format!("eval_images.{number}")].squeeze_dim(0).to_device(device());
        let (height, width) = (image.size()[1], image.size()[2]);
        let all = windows(height, width, size);
        let found: Vec<[i64; 4]> = all
            .iter()
            .map(|&Window { top, left, height, width }| [top, left, height, width])
            .collect();
        assert_eq!(found, *listed, "{}", what("windows"));
        let mut merge = Merge::new(task, height, width, device());
        // Two at a time: an image's windows need not be one batch.
        for some in all.chunks(2) {
            let cut = cut_windows(&image, some, size);
            let maps = feature_maps(encoder, &cut, &blocks, Kind::Float);
            merge.add(some, &trainer.score(&maps, [size; 2]).unwrap());
        }
        let target = target(task, &batch[&format!("eval_targets.{number}")].squeeze_dim(0));
        let scores = merge.sums().shallow_clone();
        let prediction = merge.finish();
        match task {
            DenseTask::Depth { .. } => {
                let key = format!("eval_prediction.{number}");
                assert_close(&prediction, &expected[&key], VALUES, &what(&key));
                depths.extend(depth_figures(task, &prediction, &target).unwrap().1);
            }
            DenseTask::Segmentation { .. } => {
                let key = format!("eval_scores.{number}");
                assert_close(&scores, &expected[&key], VALUES, &what(&key));
                let classes = expected[&format!("eval_classes.{number}")].to_kind(Kind::Int64);
                assert_same_classes(&prediction, &classes, &scores);
                counts.add(&prediction, &target).unwrap();
            }
        }
    }
    match task {
        DenseTask::Depth { .. } => {
            let figures = mean_of_figures(&depths).unwrap();
            let golden = &expected["eval_metrics"];
            assert_close(&Tensor::from_slice(&figures), golden, VALUES, &what("eval_metrics"));
        }
        DenseTask::Segmentation { .. } => {
            let figures = counts.figures().unwrap();
            let iou = Tensor::from_slice(&figures.iou);
            assert_close(&iou, &expected["eval_iou"], VALUES, &what("eval_iou"));
            let miou = Tensor::from(figures.miou);
            assert_close(&miou, &expected["eval_miou"], VALUES, &what("eval_miou"));
        }
    }
}

/// Classes are equal wherever the two best scores are not nearly the same.
fn assert_same_classes(found: &Tensor, expected: &Tensor, scores: &Tensor) {
    let (best, _) = scores.topk(2, 0, true, true);
    let (first, second) = (best.get(0), best.get(1));
    let is_clear = (&first - &second).gt_tensor(&((first + second) * 1e-4));
    let differs = found.ne_tensor(&expected.to_device(found.device()));
    assert_eq!(differs.logical_and(&is_clear).sum(Kind::Int64).int64_value(&[]), 0);
}

#[test]
fn golden_depth_with_a_linear_head() {
    each("depth", HeadKind::Linear, check_case);
}

#[test]
fn golden_depth_with_a_dpt_head() {
    each("depth", HeadKind::Dpt, check_case);
}

#[test]
fn golden_segmentation_with_a_linear_head() {
    each("segmentation", HeadKind::Linear, check_case);
}

#[test]
fn golden_segmentation_with_a_dpt_head() {
    each("segmentation", HeadKind::Dpt, check_case);
}

#[derive(Deserialize)]
struct Figures {
    depth: Vec<DepthGroup>,
    segmentation: Vec<SegmentationGroup>,
}

#[derive(Deserialize)]
struct DepthGroup {
    min_depth: f64,
    max_depth: f64,
    sizes: Vec<[i64; 2]>,
}

#[derive(Deserialize)]
struct SegmentationGroup {
    classes: i64,
    sizes: Vec<[i64; 2]>,
}

/// Figures of given predictions: each image's, and all images'.
#[test]
fn golden_figures() {
    let folders: Vec<_> = cases(&["case.json", "batch.safetensors", "expected.safetensors"])
        .into_iter()
        .filter(|folder| {
            let text = fs::read_to_string(folder.join("case.json")).unwrap();
            text.contains("\"eval_metrics\"")
        })
        .collect();
    assert!(!folders.is_empty(), "no golden figures");
    for folder in folders {
        let case: Figures =
            serde_json::from_slice(&fs::read(folder.join("case.json")).unwrap()).unwrap();
        let (batch, expected) =
            (read(folder.join("batch.safetensors")), read(folder.join("expected.safetensors")));
        for (number, group) in case.depth.iter().enumerate() {
            check_depth_group(number, group, &batch, &expected);
        }
        for (number, group) in case.segmentation.iter().enumerate() {
            check_segmentation_group(number, group, &batch, &expected);
        }
    }
}

fn check_depth_group(number: usize, group: &DepthGroup, batch: &Tensors, expected: &Tensors) {
    let task = DenseTask::Depth { least: group.min_depth, most: group.max_depth };
    let mut all = Vec::new();
    for image in 0..group.sizes.len() {
        let of = |what: &str| format!("depth.{number}.{what}.{image}");
        let [prediction, target] =
            ["prediction", "target"].map(|what| batch[&of(what)].to_device(device()));
        let (valid, figures) = depth_figures(task, &prediction, &target).unwrap();
        assert_eq!(valid, expected[&of("valid")].int64_value(&[]), "{}", of("valid"));
        let golden = expected.get(&of("metrics"));
        assert_eq!(figures.is_some(), golden.is_some(), "{}", of("metrics"));
        if let (Some(figures), Some(golden)) = (figures, golden) {
            assert_close(&Tensor::from_slice(&figures), golden, VALUES, &of("metrics"));
            all.push(figures);
        }
        if let Some(golden) = expected.get(&of("loss")) {
            let loss = task.loss(&prediction.unsqueeze(0), &target.unsqueeze(0)).value;
            assert_close(&loss, golden, VALUES, &of("loss"));
        }
    }
    let mean = mean_of_figures(&all).unwrap();
    let key = format!("depth.{number}.mean");
    assert_close(&Tensor::from_slice(&mean), &expected[&key], VALUES, &key);
}

fn check_segmentation_group(
    number: usize,
    group: &SegmentationGroup,
    batch: &Tensors,
    expected: &Tensors,
) {
    let mut all = ClassCounts::new(group.classes, device());
    for image in 0..group.sizes.len() {
        let of = |what: &str| format!("segmentation.{number}.{what}.{image}");
        let [prediction, target] = ["prediction", "target"]
            .map(|what| batch[&of(what)].to_kind(Kind::Int64).to_device(device()));
        let mut one = ClassCounts::new(group.classes, device());
        one.add(&prediction, &target).unwrap();
        all.add(&prediction, &target).unwrap();
        let [both, predicted, target] = one.counts().unwrap();
        let golden = |what: &str| Vec::<i64>::try_from(&expected[&of(what)]).unwrap();
        let union: Vec<i64> =
            both.iter().zip(&predicted).zip(&target).map(|((b, p), t)| p + t - b).collect();
        assert_eq!(both, golden("intersection"));
        assert_eq!(union, golden("union"));
        assert_eq!(target, golden("target"));
    }
    let figures = all.figures().unwrap();
    let of = |what: &str| expected[&format!("segmentation.{number}.{what}")].shallow_clone();
    assert_close(&Tensor::from_slice(&figures.iou), &of("iou"), VALUES, "iou");
    assert_close(&Tensor::from(figures.miou), &of("miou"), VALUES, "miou");
    assert_close(&Tensor::from(figures.pixel_accuracy), &of("pixel_accuracy"), VALUES, "accuracy");
}
