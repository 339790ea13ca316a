//! `distill eval linear`: classifiers against scikit-learn's on the same features, and the command from
//! shards to accuracies.

use distill::draws::{Draws, Purpose};
use distill::eval::kinds::linear::{Found, Images, Linear, Solver, probe};
use tch::{Device, Tensor};

use crate::support::coloured::coloured;
use crate::support::exported::with_export;
use crate::support::python::{python, run};
use crate::support::ranks::alone;
use crate::support::workshop::{Finished, Workshop};

const CLASSES: u32 = 10;
const DIM: usize = 16;

/// Images whose classes show in both halves of their features, not always.
struct Made {
    vectors: Tensor,
    labels: Vec<u32>,
}

impl Made {
    fn new(count: usize, stream: u64) -> Self {
        let mut centres = Draws::new(5, Purpose::Crop, 0, 0);
        let centres: Vec<f32> =
            (0..CLASSES as usize * 2 * DIM).map(|_| 2.0 * centres.uniform() as f32).collect();
        let mut draws = Draws::new(5, Purpose::Crop, 1, stream);
        let mut normal = || (0..12).map(|_| draws.uniform()).sum::<f64>() as f32 - 6.0;
        let labels: Vec<u32> = (0..count).map(|row| row as u32 * 7 % CLASSES).collect();
        let centre = |label: &u32| centres[*label as usize * 2 * DIM..][..2 * DIM].iter();
        let values: Vec<f32> =
            labels.iter().flat_map(centre).map(|centre| centre + 0.8 * normal()).collect();
        let vectors = Tensor::from_slice(&values).view([count as i64, 2 * DIM as i64]);
        // Numbers of classes have gaps.
        Self { vectors, labels: labels.into_iter().map(|label| 3 * label + 1).collect() }
    }

    fn images(&self) -> Images<'_> {
        Images { vectors: &self.vectors, labels: &self.labels }
    }
}

fn settings(solver: Solver, more: &str) -> Linear {
    let text = format!("train = [\"a\"]\ntest = [\"b\"]\n{more}");
    Linear { solver, ..toml::from_str(&text).unwrap() }
}

/// Accuracies on validation and test of scikit-learn, for each input and strength.
fn peer(sets: [(&str, &Made); 3], strengths: &[f64]) -> Vec<[f64; 2]> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.safetensors");
    let mut tensors = Vec::new();
    for (name, Made { vectors, labels }) in sets {
        let labels: Vec<i64> = labels.iter().map(|&label| label.into()).collect();
        tensors.push((name.to_string(), vectors.shallow_clone()));
        tensors.push((format!("{name}_labels"), Tensor::from_slice(&labels)));
    }
    Tensor::write_safetensors(&tensors, &path).unwrap();
    let mut command = python("linear_reference.py");
    command.arg(&path).args(strengths.iter().map(f64::to_string));
    let pair = |line: &str| {
        let (validation, test) = line.split_once(' ').unwrap();
        [validation.parse().unwrap(), test.parse().unwrap()]
    };
    run(&mut command).lines().map(pair).collect()
}

/// Logistic regression is scikit-learn's within 0.3 points, whatever its strength, and the best of the
/// learning rates at most 0.5 below the best of those.
#[test]
fn accuracies_are_those_of_scikit_learn() {
    let [train, validation, test] = [(3000, 0), (1500, 1), (3000, 2)].map(|(n, s)| Made::new(n, s));
    let strengths = [0.01, 1.0, 100.0];
    let expected =
        peer([("train", &train), ("validation", &validation), ("test", &test)], &strengths);
    let (class_alone, both) = expected.split_at(strengths.len());
    let measure = |settings: &Linear| -> Found {
        let (train, validation, test) = (train.images(), validation.images(), test.images());
        probe(settings, &train, Some(&validation), &test, &alone(Device::Cpu)).unwrap()
    };
    for (number, strength) in strengths.into_iter().enumerate() {
        let [validation, test] = both[number];
        assert!(validation > class_alone[number][0] + 0.02, "both halves tell more: {expected:?}");
        let found = measure(&settings(Solver::Lbfgs, &format!("strengths = [{strength:?}]")));
        println!("strength {strength}: {found:?}, scikit-learn {validation} {test}");
        assert!(found.chosen.contains("patch"), "{found:?}");
        assert!((found.validation - validation).abs() <= 0.003, "{found:?} against {validation}");
        assert!((found.top1 - test).abs() <= 0.003, "{found:?} against {test}");
        assert!(test > 0.5 && test < 0.99, "{test}");
    }
    let best = both.iter().map(|[_, test]| *test).fold(0.0, f64::max);
    let found = measure(&settings(Solver::Sgd, "steps = 1500\nimages_per_step = 256"));
    println!("gradient descent: {found:?}, scikit-learn {best}");
    assert!(found.top1 >= best - 0.005, "{found:?} against {best}");
    assert!(found.chosen.contains("patch"), "{found:?}");
}

/// More images of a class make it better; the same seed draws the same; without validation images some are
/// split off.
#[test]
fn few_shots_grow_better() {
    let (train, test) = (Made::new(800, 0), Made::new(1000, 1));
    let measure = |more: &str| {
        let settings = settings(Solver::Lbfgs, &format!("strengths = [1.0]\n{more}"));
        probe(&settings, &train.images(), None, &test.images(), &alone(Device::Cpu)).unwrap()
    };
    let found = measure("shots = [1, 5, 10]\ndraws = 4");
    println!("{found:?}");
    let [one, five, ten] = found.shots[..] else { panic!("{found:?}") };
    assert!(one.mean > 0.15 && one.deviation > 0.0, "{found:?}");
    assert!(one.mean + 0.05 < five.mean && five.mean < ten.mean, "{found:?}");
    assert!(ten.mean < found.top1, "{found:?}");
    assert_eq!(measure("shots = [1, 5, 10]\ndraws = 4"), found);
    assert_ne!(measure("shots = [1]\ndraws = 4\nseed = 1").shots[0], one);
}

fn linear(workshop: &Workshop, arguments: &[&str]) -> Finished {
    let common = ["eval", "linear", "--weights", "export", "--device", "cpu", "--input-size", "64"];
    Finished::of(workshop.command(&[&common[..], arguments].concat()).output().unwrap())
}

/// From labelled shards to accuracies, with every figure in JSON and in the table; what a user may get wrong
/// is said by its option.
#[test]
fn a_class_that_shows_is_learnt() {
    let workshop = with_export();
    coloured(&workshop, "known.tar", 60, 1);
    coloured(&workshop, "new.tar", 31, 2);
    let all = ["--train", "known.tar", "--test", "new.tar", "--steps", "200"];
    let json = |more: &[&str]| -> serde_json::Value {
        let finished = linear(&workshop, &[&all[..], &["--json"], more].concat());
        serde_json::from_str(&finished.succeeds().stdout).unwrap()
    };
    let report = json(&["--shots", "5"]);
    for (key, least) in [("top1", 0.9), ("validation_top1", 0.8), ("shots5_top1", 0.8)] {
        assert!(report[key].as_f64().unwrap() >= least, "{key}: {report}");
    }
    assert!(report["shots5_deviation"].is_number(), "{report}");
    assert!(report["chosen"].as_str().unwrap().starts_with("learning rate "), "{report}");
    assert_eq!(
        (&report["training"]["pictures"], &report["test"]["pictures"]),
        (&60.into(), &31.into())
    );
    let regression = json(&["--solver", "lbfgs", "--validation", "new.tar"]);
    assert_eq!(regression["validation"]["pictures"], 31, "{regression}");
    assert!(regression["top1"].as_f64().unwrap() >= 0.9, "{regression}");
    assert_eq!(regression["top1"], regression["validation_top1"], "the same images");
    let table = linear(&workshop, &all).succeeds().stdout;
    assert!(table.contains("Linear top-1 accuracy"), "{table}");

    let fails = |more: &[&str]| linear(&workshop, &[&all[..], more].concat());
    fails(&["--learning-rates", "0.1,0"]).fails(1, &["--learning-rates", "above 0"]);
    fails(&["--most-train", "20"]).fails(1, &["no class has 10 images", "name validation images"]);
}
