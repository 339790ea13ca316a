//! `distill eval dense`: segmentation by the nearest labelled patches, against plain PyTorch over the real
//! transformers, by any number of processes; what a user may get wrong.

use std::fs;
use std::ops::Range;
use std::time::Duration;

use distill::draws::{Draws, Purpose};
use serde_json::Value;

use crate::support::exported::{SIDE, png, with_export};
use crate::support::python::{python, run};
use crate::support::ranks::Ranks;
use crate::support::workshop::{Finished, Workshop};

/// A data set of one's own.
const MINE: &str = r#"
name = "blots"
root = "."
train.list = "train.txt"
test.list = "test.txt"
targets = { task = "segmentation", classes = 5 }
"#;

/// Classes of [`MINE`]; the last does not occur.
const CLASSES: usize = 5;

const TRAIN: Range<u32> = 0..14;
const TEST: Range<u32> = 14..21;

/// Squares of the encoder's size in four parts with a colour of its class each, and noise; some pixels of
/// each mask do not count, and in some the whole upper left corner.
fn draw(workshop: &Workshop) {
    let colours = [[200, 40, 40], [40, 190, 60], [50, 60, 210], [190, 180, 50]];
    for number in TRAIN.start..TEST.end {
        let mut draws = Draws::new(9, Purpose::Crop, 0, number.into());
        let [across, down] = [(); 2].map(|()| 12 + draws.below(40) as u32);
        let parts = [(); 4].map(|()| draws.below(4) as usize);
        let class = |x: u32, y: u32| parts[usize::from(x > across) + 2 * usize::from(y > down)];
        let image = png(SIDE, |x, y| {
            colours[class(x, y)].map(|level: u8| level.wrapping_add(draws.below(120) as u8))
        });
        fs::write(workshop.path(&format!("{number}.png")), image).unwrap();
        let corner = if number % 3 == 0 { 20 } else { 3 };
        let mask =
            |x, y| image::Luma([if x < corner && y < corner { 255 } else { class(x, y) as u8 }]);
        let mask_path = workshop.path(&format!("{number}_mask.png"));
        image::GrayImage::from_fn(SIDE, SIDE, mask).save(mask_path).unwrap();
    }
    let list = |numbers: Range<u32>| -> String {
        numbers.map(|number| format!("{number}.png {number}_mask.png\n")).collect()
    };
    fs::write(workshop.path("train.txt"), list(TRAIN)).unwrap();
    fs::write(workshop.path("test.txt"), list(TEST)).unwrap();
    fs::write(workshop.path("mine.toml"), MINE).unwrap();
}

fn prepared() -> Workshop {
    let workshop = with_export();
    draw(&workshop);
    workshop
}

const COMMON: [&str; 13] = [
    "eval",
    "dense",
    "--weights",
    "export",
    "--device",
    "cpu",
    "--input-size",
    "64",
    "--batch-size",
    "3",
    "--workers",
    "1",
    "--json",
];

fn dense(workshop: &Workshop, arguments: &[&str]) -> Finished {
    Finished::of(workshop.command(&[&COMMON[..], arguments].concat()).output().unwrap())
}

/// What each of so many processes prints.
fn printed(workshop: &Workshop, ranks: usize, arguments: &[&str]) -> Vec<String> {
    let started = Ranks::start(ranks, |_| workshop.command(&[&COMMON[..], arguments].concat()));
    let finished = started.finish(Duration::from_secs(120));
    finished.into_iter().map(|one| one.succeeds().stdout).collect()
}

/// The figures in their order: mIoU over all classes, pixel accuracy, mIoU over those that occur.
fn figures(text: &str) -> [f64; 3] {
    let report: Value = serde_json::from_str(text).unwrap();
    ["miou", "pixel_accuracy", "miou_present"].map(|key| report[key].as_f64().unwrap())
}

/// With room for every patch the figures are those of plain PyTorch, whatever the number of processes.
#[test]
fn figures_are_those_of_pytorch() {
    let workshop = prepared();
    for (neighbours, temperature) in [("5", "0.02"), ("30", "0.1")] {
        let mut command = python("memory_bank_reference.py");
        command.current_dir(workshop.path("."));
        command.args(["export", "train.txt", "test.txt", &CLASSES.to_string()]);
        let text = run(command.args([neighbours, temperature]));
        let expected: Vec<f64> = text.split_whitespace().map(|one| one.parse().unwrap()).collect();
        let options =
            ["--data", "mine.toml", "--neighbours", neighbours, "--temperature", temperature];
        for ranks in [1, 2] {
            let all = printed(&workshop, ranks, &options);
            assert!(all[1..].iter().all(String::is_empty), "rank 0 alone tells: {all:?}");
            let found = figures(&all[0]);
            println!("{neighbours} neighbours, {ranks} processes: {found:?}, PyTorch {expected:?}");
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-4, "{found}, not {expected}");
            }
        }
        let [miou, pixels, present] = figures(&printed(&workshop, 1, &options)[0]);
        assert!(pixels > 0.4 && pixels < 1.0, "{pixels}");
        assert!((miou / present - 0.8).abs() < 1e-4, "one of five classes is not there");
    }
}

/// A bank that has room for some patches is the same for any number of processes, also more than there are
/// test images; another seed keeps others.
#[test]
fn a_small_bank_is_the_same_for_any_number_of_processes() {
    let workshop = prepared();
    let options =
        |seed| ["--data", "mine.toml", "--bank", "24", "--neighbours", "3", "--seed", seed];
    let few = |seed| [&options(seed)[..], &["--most-held-out", "3"]].concat();
    let alone = |arguments: &[&str]| figures(&printed(&workshop, 1, arguments)[0]);
    let expected = alone(&few("0"));
    for ranks in [2, 4] {
        let found = figures(&printed(&workshop, ranks, &few("0"))[0]);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-4, "{ranks} ranks: {found}, not {expected}");
        }
    }
    assert_ne!(alone(&options("0")), alone(&options("1")));
}

/// What a user may get wrong is said by its option or key.
#[test]
fn mistakes_are_explained() {
    let workshop = prepared();
    let file = |name: &str, text: &str| fs::write(workshop.path(name), text).unwrap();
    let with = |name: &str| dense(&workshop, &["--data", name]);
    let targets = "{ task = \"segmentation\", classes = 5 }";
    file(
        "depth.toml",
        &MINE.replace(targets, "{ task = \"depth\", divisor = 1000.0, most = 10.0 }"),
    );
    with("depth.toml").fails(1, &["--data", "a data set of depth", "distill eval depth"]);
    file("nyu.toml", "[data]\ndataset = \"nyuv2\"\nroot = \".\"\n");
    with("nyu.toml").fails(1, &["--data", "found `nyuv2`, a data set of depth"]);
    file("other.toml", &MINE.replace("name", "nam"));
    with("other.toml").fails(2, &["toml: data: ", "unknown field `nam`", "did you mean `name`?"]);
    file("known.toml", "dataset = \"ade20k\"\nrot = \".\"\n");
    with("known.toml").fails(2, &["toml: data: ", "unknown field `rot`", "did you mean `root`?"]);
    let mine = |more: &[&str]| dense(&workshop, &[&["--data", "mine.toml"], more].concat());
    mine(&["--bank", "10"]).fails(1, &["--bank", "found 10", "at least the 30 neighbours"]);
    mine(&["--temperature", "0"]).fails(1, &["--temperature", "above 0"]);
    mine(&["--neighbours", "2000"]).fails(1, &["fewer than the 2000 neighbours"]);
    dense(&workshop, &[]).fails(2, &["required arguments"]);
    dense(&workshop, &["--dataset", "nyuv2", "--root", "."]).fails(2, &["nyuv2"]);
}

/// A run measures by the table of its configuration when it ends, and refuses what the table does not know.
#[test]
fn a_table_of_a_run_is_measured_at_its_end() {
    let workshop = prepared();
    let set = |more: &str| {
        format!("evaluation.dense={{ data = {{ {} }}{more} }}", MINE.trim().replace('\n', ", "))
    };
    let (wrong, right) = (set(", neighbors = 3"), set(", neighbours = 3"));
    let refused = workshop.train(&[&wrong]);
    refused.fails(2, &["evaluation.dense.neighbors", "did you mean `neighbours`?"]);
    let depth = "evaluation.dense={ data = { dataset = \"kitti\", root = \".\" } }";
    workshop.train(&[depth]).fails(2, &["evaluation.dense.data", "a data set of depth"]);
    let done = workshop.train(&[&right]).succeeds();
    // Pixels have classes here, and images none.
    assert!(!done.stderr.contains("of one class"), "{}", done.stderr);
    let path = workshop.path("run/evaluation.json");
    let evaluation: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let result = &evaluation["results"][0];
    assert_eq!(result["kind"], "dense");
    let measurements = result["measurements"].as_array().unwrap();
    // Two students, initial and trained, and the teacher: one bank each.
    assert_eq!(measurements.len(), 5 * 3, "{result}");
    for one in measurements {
        let value = one["value"].as_f64().unwrap();
        assert!(value > 0.0 && value < 1.0, "{one}");
    }
}
