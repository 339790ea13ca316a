//! The terms of the distillation loss: golden values and gradients by plain PyTorch, and through runs.

use std::fs;

use distill::encoders::Tokens;
use distill::tasks::distill::{Distance, Fuse, LossConfig, Relation, TokenPair};
use serde_json::Value;

use crate::support::device::device;
use crate::support::golden::{Tensors, assert_close, cases, read};
use crate::support::ranks;
use crate::support::workshop::Workshop;

/// Class tokens of the golden tokens.
const CLASS_TOKENS: i64 = 2;

/// Relative tolerance of values and gradients.
const TOLERANCE: f64 = 1e-5;

/// Terms, total and gradient of a loss are PyTorch's, for a student that sees all patches and one that
/// sees some (`tests/golden/make_losses.py`).
#[track_caller]
fn assert_golden(name: &str, config: &LossConfig) {
    let folders = cases(&["losses.safetensors"]);
    assert!(!folders.is_empty(), "no losses in the golden folder");
    for folder in folders {
        assert_golden_in(&read(folder.join("losses.safetensors")), name, config);
    }
}

#[track_caller]
fn assert_golden_in(golden: &Tensors, name: &str, config: &LossConfig) {
    let teacher = golden["teacher"].to_device(device());
    let keep = golden["keep"].to_device(device());
    for (sight, keep) in [("whole", None), ("masked", Some(&keep))] {
        let student =
            golden[&format!("{sight}.student")].to_device(device()).set_requires_grad(true);
        let patches = teacher.size()[1] - CLASS_TOKENS;
        let tokens = |all: &tch::Tensor| Tokens {
            all: all.shallow_clone(),
            class_tokens: CLASS_TOKENS,
            prefix_tokens: CLASS_TOKENS,
            grid: [1, patches],
            taps: Vec::new(),
        };
        let pair = TokenPair::new(&tokens(&student), &tokens(&teacher), keep);
        let losses = config.compare(&pair);
        let prefix = format!("{sight}.{name}.");
        let mut expected: Vec<&str> = golden
            .keys()
            .filter_map(|key| key.strip_prefix(&prefix))
            .filter(|what| !["total", "gradient"].contains(what))
            .collect();
        expected.sort_unstable();
        let mut found: Vec<&str> = losses.terms.iter().map(|(term, _)| &**term).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{prefix}");
        for (term, value) in &losses.terms {
            let key = format!("{prefix}{term}");
            assert_close(value, &golden[&key], TOLERANCE, &key);
        }
        let key = format!("{prefix}total");
        assert_close(&losses.total, &golden[&key], TOLERANCE, &key);
        losses.total.backward();
        let key = format!("{prefix}gradient");
        assert_close(&student.grad(), &golden[&key], TOLERANCE, &key);
    }
}

/// Smooth L1 over class and patch tokens, and over patch tokens alone.
#[test]
fn golden_loss_smooth_l1() {
    let both = LossConfig {
        class: Distance::SmoothL1,
        patch: Distance::SmoothL1,
        ..LossConfig::default()
    };
    assert_golden("smooth_l1", &both);
    assert_golden("smooth_l1_patch", &LossConfig { class: Distance::None, ..both });
}

/// The relations of patch tokens, alone and beside fused distances.
#[test]
fn golden_loss_gram() {
    let gram = Some(0.3);
    let alone =
        LossConfig { class: Distance::None, patch: Distance::None, gram, ..LossConfig::default() };
    assert_golden("gram", &alone);
    let (class, patch) = (Distance::Cosine, Distance::Mse);
    let beside = LossConfig { class, patch, fuse: Fuse::Sum, gram, ..LossConfig::default() };
    assert_golden("features_and_gram", &beside);
}

/// Which patches a patch resembles, alone and beside fused distances.
#[test]
fn golden_loss_relation() {
    let relation = Some(Relation { weight: 0.7, temperature: 0.2 });
    let none = Distance::None;
    let alone = LossConfig { class: none, patch: none, relation, ..LossConfig::default() };
    assert_golden("relation", &alone);
    assert_golden("features_and_relation", &LossConfig { relation, ..LossConfig::default() });
}

/// What turns the term `gram` on, beside smooth L1.
const GRAM: [&str; 3] = ["loss.gram=0.5", "loss.class=\"smooth_l1\"", "loss.patch=\"smooth_l1\""];

fn with_gram<'a>(more: &[&'a str]) -> Vec<&'a str> {
    GRAM.iter().copied().chain(more.iter().copied()).collect()
}

/// The students of every line of a run's metrics.
fn students(workshop: &Workshop, run: &str) -> Vec<Value> {
    let lines = ranks::metrics(workshop, run);
    lines.iter().flat_map(|line| line["students"].as_array().unwrap().clone()).collect()
}

/// A run with `loss.gram`: the term is in its metrics, in the total, in TensorBoard's file and on the
/// page; and after a kill the run goes on bit for bit.
#[test]
fn a_run_with_the_gram_loss_shows_it_and_resumes_bit_for_bit() {
    let workshop = Workshop::new();
    workshop.train(&with_gram(&["run.dir=whole"])).succeeds();
    let found = students(&workshop, "whole");
    assert_eq!(found.len(), 16);
    for student in &found {
        let of = |key: &str| student[key].as_f64().unwrap();
        let total = (of("loss_class") + of("loss_patch")) / 2.0 + 0.5 * of("loss_gram");
        assert!(of("loss_gram") > 0.0 && (of("loss") - total).abs() < 1e-5, "{student}");
    }
    let events = fs::read_dir(workshop.path("whole/tensorboard")).unwrap().next().unwrap();
    let events = fs::read(events.unwrap().path()).unwrap();
    assert!(events.windows(13).any(|bytes| bytes == b"loss_gram/one"), "no tag in TensorBoard");
    let report = workshop.command(&["report", "--run", "whole"]).output().unwrap();
    assert!(report.status.success(), "{report:?}");
    let page = fs::read_to_string(workshop.path("whole/report.html")).unwrap();
    assert!(page.contains("Loss term: gram"));

    let mut child = workshop.start(&with_gram(&["run.dir=killed"]));
    crate::support::processes::wait_until("a checkpoint", || {
        workshop.path("killed/checkpoints/step-2").exists()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    workshop.train(&with_gram(&["run.dir=killed"])).succeeds();
    assert_eq!(workshop.checkpoint("killed", 8), workshop.checkpoint("whole", 8));
}

/// A run with `loss.relation`: the term is in its metrics and in the total, it falls, and another temperature is
/// another loss.
#[test]
fn a_run_learns_relations() {
    let workshop = Workshop::new();
    let alone = ["loss.class=\"none\"", "loss.patch=\"none\"", "optimizer.learning_rate=1e-2"];
    let losses = |run: &str, relation: &str| -> Vec<f64> {
        let more = [format!("run.dir={run}"), format!("loss.relation={{ {relation} }}")];
        let overrides = [&alone[..], &[&more[0], &more[1], "schedule.epochs=4"]].concat();
        workshop.train(&overrides).succeeds();
        let of_student = |student: &Value| {
            let of = |key: &str| student[key].as_f64().unwrap();
            assert!((of("loss") - 2.0 * of("loss_relation")).abs() < 1e-5, "{student}");
            of("loss_relation")
        };
        students(&workshop, run).iter().map(of_student).collect()
    };
    let found = losses("run", "weight = 2.0");
    let (first, last) = (found[0] + found[1], found[found.len() - 2] + found[found.len() - 1]);
    assert!(first > 0.0 && last < 0.9 * first, "{found:?}");
    assert_ne!(losses("other", "weight = 2.0, temperature = 0.5"), found);
    workshop
        .train(&["run.dir=run", "loss.relation={ weight = 1.0 }"])
        .fails(2, &["loss.relation", "--accept-changes"]);
}

/// Relations between patches belong to an image, so the number of processes changes no term.
#[test]
fn the_gram_loss_is_the_same_on_two_processes() {
    let workshop = Workshop::new();
    let steps = ["data.global_batch_size=8", "optimizer.learning_rate=1e-3"];
    workshop.train(&[&with_gram(&steps)[..], &["run.dir=on-1"]].concat()).succeeds();
    ranks::train(&workshop, 2, &[&with_gram(&steps)[..], &["run.dir=on-2"]].concat());
    let (one, two) = (students(&workshop, "on-1"), students(&workshop, "on-2"));
    assert!(!one.is_empty() && one.len() == two.len());
    for (one, two) in one.iter().zip(&two) {
        for key in ["loss", "loss_class", "loss_patch", "loss_gram"] {
            let [one, two] = [one, two].map(|student| student[key].as_f64().unwrap());
            assert!((one - two).abs() <= 1e-5 * one.abs(), "{key}: {two} is not {one}");
        }
    }
}
