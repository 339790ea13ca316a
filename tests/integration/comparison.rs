//! `distill eval all`: several encoders and evaluations in one table, which goes on where it was stopped.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use distill::run::comparison::ComparisonConfig;
use serde_json::{Value, json};

use crate::support::bands::draw;
use crate::support::processes::{send, wait_until};
use crate::support::python::python;
use crate::support::ranks::Ranks;
use crate::support::workshop::{Finished, Workshop, labelled};

/// All that a distillation has, what its teacher came from, and that teacher's export.
const ALL: &str = r#"
[run]
dir = "all"
device = "cpu"
threads = 1
[images]
batch_size = 4
workers = 1
[encoders.students]
run = "run"
[encoders.before]
run = "pre"
[encoders.file]
weights = "pre/exports/encoder"
[evaluation.knn]
reference = ["shards/many.tar"]
held_out = ["shards/few.tar"]
neighbours = [1, 3]
[evaluation.centroid]
reference = ["shards/many.tar"]
held_out = ["shards/few.tar"]
[evaluation.dense]
data = { name = "bands", root = ".", train.list = "train.txt", test.list = "test.txt", targets = { task = "segmentation", classes = 3 } }
neighbours = 5
[heads.bands]
training = { epochs = 2, global_batch_size = 4, images_per_loss = 1, crop_size = 32, workers = 1 }
[heads.bands.data]
name = "bands"
root = "."
train.list = "train.txt"
test.list = "test.txt"
targets = { task = "segmentation", classes = 3 }
"#;

/// A workshop in which `pre` was pre-trained and `run` learned from it.
fn prepared() -> Workshop {
    let (workshop, [knn, data]) = labelled();
    workshop.pretrain(&[&data]).succeeds();
    let model = "teacher.model={ dim = 32, depth = 2, heads = 2, patch_size = 8 }";
    let weights = "teacher.weights=pre/exports/encoder";
    let begun = "students.1.weights=pre/exports/encoder";
    let student = "students.1.model={ dim = 32, depth = 2, heads = 2, patch_size = 8 }";
    workshop.train(&[&knn, &data, model, weights, begun, student]).succeeds();
    draw(&workshop);
    fs::write(workshop.path("all.toml"), ALL).unwrap();
    workshop
}

fn command(workshop: &Workshop, overrides: &[&str]) -> Command {
    let mut command = workshop.command(&["eval", "all", "--config", "all.toml", "--json"]);
    overrides.iter().for_each(|text| _ = command.args(["--set", text]));
    command
}

fn all(workshop: &Workshop, overrides: &[&str]) -> Finished {
    Finished::of(command(workshop, overrides).output().unwrap())
}

/// The rows that a command printed.
fn rows(finished: &Finished) -> Vec<Value> {
    let table: Value = serde_json::from_str(finished.stdout.trim()).unwrap();
    table["encoders"].as_array().unwrap().clone()
}

fn read(workshop: &Workshop, file: &str) -> Value {
    serde_json::from_slice(&fs::read(workshop.path(file)).unwrap()).unwrap()
}

/// Figures of one evaluation by encoder, role and metric.
fn measured(file: &Value, evaluation: &str) -> Vec<(String, String, String, f64)> {
    let results = file["results"].as_array().unwrap();
    let result = results.iter().find(|result| result["name"] == evaluation).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let one = |one: &Value| {
        let [encoder, role, metric] = ["encoder", "role", "metric"].map(|key| text(&one[key]));
        (encoder, role, metric, one["value"].as_f64().unwrap())
    };
    result["measurements"].as_array().unwrap().iter().map(one).collect()
}

/// How often a line of the log says `words`.
fn count(finished: &Finished, words: &str) -> usize {
    finished.stderr.matches(words).count()
}

/// Each encoder of a run is a row, and has the figures that the run itself found; all of it is in the table,
/// the files and the page. Nothing is measured twice, and what changed is measured again.
#[test]
fn one_table_has_every_encoder_and_evaluation() {
    let workshop = prepared();
    let done = all(&workshop, &[]).succeeds();
    let rows = rows(&done);
    let names: Vec<_> = rows
        .iter()
        .map(|row| [&row["encoder"], &row["role"]].map(|v| v.as_str().unwrap()))
        .collect();
    let expected = [
        ["students/one", "random"],
        ["students/one", "trained"],
        ["students/two", "initial"],
        ["students/two", "trained"],
        ["students/teacher", "teacher"],
        ["before", "random"],
        ["before", "trained"],
        ["file", "stored"],
    ];
    assert_eq!(names, expected);
    for row in &rows {
        let figures = row["figures"].as_object().unwrap();
        let names: Vec<_> = figures.keys().map(String::as_str).collect();
        let expected = [
            "bands-linear.miou_best",
            "bands-linear.miou_last",
            "centroid.top1",
            "dense.miou",
            "knn.top1_k1",
            "knn.top5_k1",
        ];
        assert_eq!(names, expected, "{row}");
        assert!(figures.values().all(|value| (0.0..=1.0).contains(&value.as_f64().unwrap())));
    }
    // The same encoder, whatever names it.
    for same in [4, 6, 7] {
        assert_eq!(rows[same]["figures"], rows[2]["figures"], "{}", rows[same]);
    }
    assert_ne!(rows[0]["figures"], rows[2]["figures"]);

    let own = measured(&read(&workshop, "run/evaluation.json"), "knn");
    let found = measured(&read(&workshop, "all/evaluation.json"), "knn");
    for (encoder, role, metric, value) in own {
        let label = format!("students/{encoder}");
        let one = found.iter().find(|one| (&one.0, &one.1, &one.2) == (&label, &role, &metric));
        assert_eq!(one.unwrap().3, value, "{label} {role} {metric}");
    }
    let markdown = fs::read_to_string(workshop.path("all/evaluation.md")).unwrap();
    let table = markdown.lines().filter(|line| line.starts_with('|')).count();
    assert_eq!(table, 2 + 8, "{markdown}");
    assert!(markdown.contains("best of all epochs on the test split"), "{markdown}");
    let page = python("read_page.py").arg(workshop.path("all/report.html")).output().unwrap();
    let page: Value = serde_json::from_slice(&page.stdout).unwrap();
    assert_eq!((&page["problems"], &page["links"]), (&json!([]), &json!([])));
    let text = page["text"].as_str().unwrap();
    for words in
        ["students/two initial", "Segmentation on bands, head `linear`", "[encoders.before]"]
    {
        assert!(text.contains(words), "`{words}` is not in {text}");
    }

    let again = all(&workshop, &[]).succeeds();
    assert_eq!((count(&again, "measuring "), count(&again, "training heads")), (0, 0));
    assert_eq!(self::rows(&again), rows);
    fs::remove_file(workshop.path("all/measured/before-random/centroid.json")).unwrap();
    let again = all(&workshop, &[]).succeeds();
    assert_eq!((count(&again, "measuring "), count(&again, "training heads")), (1, 0));
    assert_eq!(self::rows(&again), rows);
    let other = all(&workshop, &["evaluation.knn.neighbours=[3]"]).succeeds();
    assert_eq!((count(&other, "measuring "), count(&other, "training heads")), (8, 0));
    assert!(self::rows(&other)[0]["figures"]["knn.top1_k3"].is_number());
}

/// A signal ends it with what is measured kept, and the figures are in the end those of one that was not
/// stopped; two ranks find what one finds.
#[test]
fn a_stopped_comparison_goes_on_and_ranks_share_the_work() {
    let workshop = prepared();
    let few = [
        "encoders={ file = { weights = \"pre/exports/encoder\" }, before = { run = \"pre\" } }",
        "heads.bands.training.epochs=12",
    ];
    let expected = rows(&all(&workshop, &few).succeeds());
    let stopped = [&few[..], &["run.dir=stopped"]].concat();
    let mut child =
        command(&workshop, &stopped).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let heads = workshop.path("stopped/heads/file-stored");
    wait_until("heads", || {
        let mut dirs = fs::read_dir(&heads).into_iter().flatten().flatten();
        dirs.any(|dir| dir.path().join("figures.jsonl").is_file())
    });
    send("TERM", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert!(!workshop.path("stopped/evaluation.json").exists());
    let resumed = all(&workshop, &stopped).succeeds();
    assert_eq!(count(&resumed, "measuring file"), 0, "{}", resumed.stderr);
    assert_eq!(rows(&resumed), expected);

    let shared = [&few[..], &["run.dir=shared"]].concat();
    let ranks = Ranks::start(2, |_| command(&workshop, &shared));
    let ranks = ranks.finish(Duration::from_secs(120));
    let ranks: Vec<_> = ranks.into_iter().map(Finished::succeeds).collect();
    assert_eq!(ranks[1].stdout, "");
    for (found, expected) in rows(&ranks[0]).iter().zip(&expected) {
        let [found, expected] = [found, expected].map(|row| row["figures"].as_object().unwrap());
        assert_eq!(found.len(), expected.len());
        for (name, value) in expected {
            let off = found[name].as_f64().unwrap() - value.as_f64().unwrap();
            assert!(off.abs() < 0.01, "{name} is {off} off");
        }
    }
}

/// The reference has every key, and it and the quickstart's file can be read.
#[test]
fn shipped_files_are_read_and_the_reference_is_whole() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/eval");
    let load = |name: &str| ComparisonConfig::load(&folder.join(name), &[]).unwrap();
    let reference = fs::read_to_string(folder.join("reference_all.toml")).unwrap();
    let resolved: toml::Table = load("reference_all.toml").to_toml().parse().unwrap();
    let says = |key: &str| {
        let mut lines = reference.lines().map(|line| line.trim_start_matches(['#', ' ']));
        lines.any(|line| line.starts_with(&format!("{key} = ")))
    };
    for table in ["run", "images"] {
        for key in resolved[table].as_table().unwrap().keys() {
            assert!(says(key), "[{table}] {key}");
        }
    }
    for key in ["weights", "heads", "run", "student", "step", "role", "input_size", "file"] {
        assert!(says(key), "{key}");
    }
    let quickstart = load("quickstart.toml");
    assert!(!quickstart.heads.is_empty() && quickstart.evaluation.contains_key("dense"));
}

/// What cannot be measured is said before anything is, and no other run's directory is written to.
#[test]
fn mistakes_are_told_before_anything_is_measured() {
    let workshop = prepared();
    let fails = |overrides: &[&str], code, says: &[&str]| {
        let failed = all(&workshop, overrides).fails(code, says);
        assert_eq!(count(&failed, "measuring "), 0, "{}", failed.stderr);
    };
    fails(&["encoders.gone.weights=nowhere"], 1, &["encoders.gone", "nowhere"]);
    fails(&["encoders.gone.run=nowhere"], 2, &["nowhere"]);
    fails(&["encoders.gone={ run = \"run\", student = \"three\" }"], 2, &["three", "one, two"]);
    fails(&["encoders.gone={ run = \"pre\", role = \"teacher\" }"], 1, &["has no teacher"]);
    fails(&["evaluation.knn.held_out=[\"shards/none.tar\"]"], 2, &["none.tar"]);
    fails(&["heads.bands.data.test.list=none.txt"], 1, &["heads.bands.data", "none.txt"]);
    fails(&["heads.bands.training.crop_size=30"], 2, &["heads.bands.training.crop_size"]);
    fails(&["images.input_size=30"], 2, &["images.input_size"]);
    let before = fs::read(workshop.path("run/config.toml")).unwrap();
    fails(&["run.dir=run"], 1, &["directory of another run"]);
    assert_eq!(fs::read(workshop.path("run/config.toml")).unwrap(), before);
}
