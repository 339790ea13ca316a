//! The seam of evaluations: one that is not of the program's own, beside one that is, on one pass.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;

use anyhow::Result;
use distill::artifacts::{Measurement, Metric, Role};
use distill::config::{DataConfig, KeyError, require};
use distill::data::{Dataset, ShardProgress};
use distill::dist::ProcessGroup;
use distill::draws::{Draws, Purpose};
use distill::encoders::EncoderShape;
use distill::eval::{
    self, DenseBatch, Encoder, Evaluation, FeatureConsumer, Features, Given, ImageSet,
    NamedEvaluation, Observer, Progress, SetImages, Source, Subject,
};
use tch::{Device, Kind, Tensor};

use crate::support::exported::{SIDE, exported, png, with_export};
use crate::support::golden::{assert_close, read};
use crate::support::python::{python, run};
use crate::support::ranks::alone;
use crate::support::shards::config;
use crate::support::workshop::Workshop;

/// Of each encoder, first rows, classes and dense features, a batch each.
type Taken = Rc<RefCell<Vec<(usize, usize, Vec<u32>, [Tensor; 2])>>>;

/// An evaluation that keeps the dense features, and counts images.
struct Keep {
    shards: Vec<String>,
    taken: Taken,
}

impl Evaluation for Keep {
    fn title(&self) -> String {
        "Images".into()
    }

    fn description(&self, counts: &[u64]) -> String {
        format!("{counts:?} images")
    }

    fn metrics(&self) -> Vec<Metric> {
        vec![Metric::share("images", "images")]
    }

    fn image_sets(&self) -> Vec<ImageSet> {
        let (images, field) = (SetImages::Labelled(self.shards.clone()), "images");
        vec![ImageSet { title: "dense", field, images, most: None, is_dense: true }]
    }

    fn check(&self, counts: &[u64]) -> Result<(), KeyError> {
        require(counts == [7], "images", || format!("found {counts:?} images, expected 7"))
    }

    fn begin<'a>(
        &'a self,
        subjects: &'a [Subject<'a>],
        _: &'a ProcessGroup,
    ) -> Result<Box<dyn FeatureConsumer + 'a>> {
        Ok(Box::new(Keeping { taken: self.taken.clone(), subjects }))
    }
}

struct Keeping<'a> {
    taken: Taken,
    subjects: &'a [Subject<'a>],
}

impl FeatureConsumer for Keeping<'_> {
    fn take(&mut self, set: usize, batch: &DenseBatch<'_>) -> Result<()> {
        assert_eq!(set, 0);
        let DenseBatch { encoder, first, positions, labels, class, patches, targets } = batch;
        // A process that works alone, and images that all decode.
        assert!(
            positions.iter().eq((*first as u64..).take(labels.len()).collect::<Vec<_>>().iter())
        );
        assert!(targets.is_none());
        let tensors = [class, patches].map(Tensor::shallow_clone);
        self.taken.borrow_mut().push((*encoder, *first, labels.to_vec(), tensors));
        Ok(())
    }

    fn finish(self: Box<Self>, pooled: &[&[Features]]) -> Result<Vec<Measurement>> {
        let counts = pooled[0].iter().map(|features| features.count() as f64);
        let pairs = self.subjects.iter().zip(counts);
        Ok(pairs.map(|(subject, count)| subject.measurement("images", count)).collect())
    }
}

/// Counts what is gone over.
#[derive(Default)]
struct Counter(Cell<usize>);

impl Observer for Counter {
    fn open(
        &self,
        _: &ImageSet,
        open: &dyn Fn(ShardProgress<'_>) -> Result<Dataset>,
    ) -> Result<Dataset> {
        open(&|_, _| {})
    }

    fn extract(
        &self,
        _: &ImageSet,
        extract: &mut dyn FnMut(Progress<'_>) -> Result<Vec<Features>>,
    ) -> Result<Vec<Features>> {
        self.0.set(self.0.get() + 1);
        extract(&|_, _| false)
    }
}

/// Seven labelled images in `images.tar`; the patch tokens that the real transformers makes of them,
/// after the final LayerNorm.
fn images(workshop: &Workshop) -> Tensor {
    let mut draws = Draws::new(5, Purpose::Crop, 0, 0);
    let mut command = python("hf_reference.py");
    command.arg(workshop.path("export")).arg(workshop.path("theirs")).arg("--image");
    let mut members = Vec::new();
    for number in 0..7 {
        let base = draws.bits() as u32;
        let bytes = png(SIDE, |x, y| [x * 7 + base, y * 5 + (base >> 8), x * y].map(|v| v as u8));
        let name = format!("{number}.png");
        std::fs::write(workshop.path(&name), &bytes).unwrap();
        command.arg(workshop.path(&name));
        members.push((name, bytes));
        members.push((format!("{number}.cls"), number.to_string().into_bytes()));
    }
    workshop.shard("images.tar", &members);
    run(&mut command);
    read(workshop.path("theirs"))["last_hidden_state"].shallow_clone()
}

fn source<'a>(data: &'a DataConfig, observer: &'a dyn Observer) -> Source<'a> {
    Source { data, given: Given::InConfig, observer }
}

/// An evaluation needs the trait and no more: its check is named by its key, its images are gone over
/// once together with k-NN's, and the dense features that it takes are those of the real transformers.
#[test]
fn an_evaluation_of_ones_own_shares_the_pass() {
    let workshop = with_export();
    let expected = images(&workshop);
    let model = exported(&workshop);
    let shards = vec![workshop.path("images.tar").display().to_string()];
    let knn = format!("[knn]\nreference = {shards:?}\nheld_out = {shards:?}\nneighbours = [1]");
    let taken = Taken::default();
    let mut evaluations = eval::read(&knn.parse().unwrap()).unwrap();
    evaluations.push(NamedEvaluation {
        name: "mine".into(),
        kind: "keep",
        settings: toml::Table::new(),
        every: None,
        evaluation: Box::new(Keep { shards, taken: taken.clone() }),
    });
    let mut data = config(&[]);
    (data.batch_size, data.input_size) = (4, SIDE as usize);
    let counter = Counter::default();
    let source = source(&data, &counter);
    eval::prepare(&evaluations, &source).unwrap().check_labels().unwrap();
    let encoder = Encoder { model: &*model, compute: Kind::Float, image_size: None };
    let subject = |name, role| Subject { name, role, encoder: Some(encoder) };
    let subjects = [subject("a", Role::Initial), subject("b", Role::Trained)];
    let worker_program = Path::new(env!("CARGO_BIN_EXE_distill-worker"));
    let found =
        eval::measure(&evaluations, &subjects, &source, worker_program, &alone(Device::Cpu))
            .unwrap();
    assert_eq!(counter.0.get(), 1, "one pass for all");

    let figures = |number: usize| {
        let all = found[number].measurements.iter();
        all.map(|one| (&*one.encoder, one.role, &*one.metric, one.value)).collect::<Vec<_>>()
    };
    let both =
        |metric, value| [("a", Role::Initial, metric, value), ("b", Role::Trained, metric, value)];
    let [a, b] = ["top1_k1", "top5_k1"].map(|metric| both(metric, 1.0));
    assert_eq!(figures(0), [a[0], b[0], a[1], b[1]], "each image is nearest to itself");
    assert_eq!(figures(1), both("images", 7.0));
    let facts = &found[1].sets[0];
    assert_eq!((facts.title, facts.images, facts.classes), ("dense", 7, 7));

    let taken = taken.borrow();
    let rows: Vec<_> = taken.iter().map(|(n, first, labels, _)| (*n, *first, &**labels)).collect();
    let (first, second): (&[u32], &[u32]) = (&[0, 1, 2, 3], &[4, 5, 6]);
    assert_eq!(rows, [(0, 0, first), (1, 0, first), (0, 4, second), (1, 4, second)]);
    let EncoderShape { dim, prefix_tokens, patch_size, .. } = model.shape();
    let grid = i64::from(SIDE) / patch_size;
    let class = expected.narrow(1, 0, prefix_tokens).mean_dim([1i64].as_slice(), false, None);
    let expected = expected.narrow(1, prefix_tokens, grid * grid);
    for encoder in [0, 1] {
        let own = taken.iter().filter(|(n, ..)| *n == encoder);
        let (classes, patches): (Vec<_>, Vec<_>) =
            own.map(|(.., [class, patches])| (class, patches)).unzip();
        assert_close(&Tensor::cat(&classes, 0), &class, 1e-4, "class tokens after the norm");
        let patches = Tensor::cat(&patches, 0);
        assert_eq!(patches.size(), [7, grid, grid, dim]);
        assert_close(&patches.flatten(1, 2), &expected, 1e-4, "dense features");
    }
}

/// What an evaluation's own check says is known before anything is computed, by its key.
#[test]
fn too_few_images_are_named_by_the_evaluations_key() {
    let workshop = with_export();
    let _ = images(&workshop);
    let shards = vec![workshop.path("*.tar").display().to_string(); 2];
    workshop.shard("more.tar", &[("a.png".into(), png(SIDE, |_, _| [7; 3]))]);
    let evaluations = [NamedEvaluation {
        name: "mine".into(),
        kind: "keep",
        settings: toml::Table::new(),
        every: None,
        evaluation: Box::new(Keep { shards, taken: Taken::default() }),
    }];
    let data = config(&[]);
    let error =
        eval::prepare(&evaluations, &source(&data, &Counter::default())).map(drop).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.starts_with("evaluation.mine.images: found ["), "{error}");
}
