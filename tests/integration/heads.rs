//! `distill eval depth` and `distill eval segmentation`, through the command line: figures, exact resume,
//! any number of ranks, several heads on one pass, bad input.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use distill::run::heads::HeadsConfig;
use serde_json::Value;

use crate::support::bands::draw;
use crate::support::exported::with_export;
use crate::support::golden::{Tensors, read};
use crate::support::processes::send;
use crate::support::ranks::{Ranks, wait_for_steps};
use crate::support::workshop::{Finished, Workshop};

const SEGMENTATION: &str = r#"
[run]
dir = "heads"
device = "cpu"
threads = 1
[encoder]
weights = "export"
[data]
name = "bands"
root = "."
train.list = "train.txt"
test.list = "test.txt"
targets = { task = "segmentation", classes = 3 }
[[heads]]
kind = "linear"
learning_rate = 0.05
[[heads]]
kind = "linear"
learning_rate = 1e-3
[training]
epochs = 4
global_batch_size = 4
images_per_loss = 1
crop_size = 64
workers = 1
[checkpoint]
keep = 10
[log]
every = 1
"#;

/// The names of the heads, by their rates.
const HEADS: [&str; 2] = ["linear-5e-2", "linear-1e-3"];

fn prepared() -> Workshop {
    let workshop = with_export();
    draw(&workshop);
    fs::write(workshop.path("heads.toml"), SEGMENTATION).unwrap();
    workshop
}

fn run(workshop: &Workshop, overrides: &[&str]) -> Finished {
    let mut command =
        workshop.command(&["eval", "segmentation", "--config", "heads.toml", "--json"]);
    overrides.iter().for_each(|text| _ = command.args(["--set", text]));
    Finished::of(command.output().unwrap())
}

fn json(finished: &Finished) -> Value {
    serde_json::from_str(finished.stdout.lines().last().unwrap()).unwrap()
}

fn weights(workshop: &Workshop, run: &str, head: &str, step: u64) -> Tensors {
    read(workshop.path(&format!("{run}/checkpoints/step-{step}/{head}.safetensors")))
}

#[track_caller]
fn assert_same(found: &Tensors, expected: &Tensors) {
    assert_eq!(found.len(), expected.len());
    for (name, tensor) in expected {
        assert_eq!(found[name], *tensor, "{name}");
    }
}

/// Heads learn; the last epoch stands beside the best of all; what a run leaves says the same.
#[test]
fn heads_learn_and_say_so() {
    let workshop = prepared();
    let dpt = "heads=[{ kind = \"linear\", learning_rate = 0.05 }, { kind = \"dpt\" }]";
    let finished = run(&workshop, &[dpt, "test.every=2"]).succeeds();
    let found = json(&finished);
    assert_eq!(found["heads"].as_array().unwrap().len(), 2);
    let linear = &found["heads"][0];
    let miou = linear["last"]["miou"].as_f64().unwrap();
    // One class everywhere has at most a third of the three.
    assert!(miou > 45.0, "mIoU {miou}");
    let best = linear["best_of_epochs_on_test"]["miou"]["value"].as_f64().unwrap();
    assert!(best >= miou);
    let lines = fs::read_to_string(workshop.path("heads/figures.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 2 * 2, "two heads, every second of four epochs");
    let evaluation: Value =
        serde_json::from_slice(&fs::read(workshop.path("heads/evaluation.json")).unwrap()).unwrap();
    let result = &evaluation["results"][0];
    assert_eq!(
        (&result["kind"], &result["name"]),
        (&"segmentation".into(), &"bands-linear".into())
    );
    let one = result["measurements"].as_array().unwrap();
    let value = |metric: &str| {
        one.iter().find(|one| one["metric"] == metric).unwrap()["value"].as_f64().unwrap()
    };
    // A share there, and per cent on the screen.
    assert_eq!([value("miou_last"), value("miou_best")], [miou / 100.0, best / 100.0]);
    assert!(result["description"].as_str().unwrap().contains("best of all epochs on the test"));
    assert!(!workshop.path("heads/features-0").exists(), "kept features go with the run");
    let report = ["report", "--run", "heads"];
    Finished::of(workshop.command(&report).output().unwrap()).succeeds();
    let page = fs::read_to_string(workshop.path("heads/report.html")).unwrap();
    for words in ["Heads on a frozen encoder", "Segmentation on bands, head", "frozen encoder"] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("distill export"), "no encoder comes out of it");
}

/// A run that goes on from any of its checkpoints ends with the same bits and figures.
#[test]
fn a_stopped_training_of_heads_resumes_bit_for_bit() {
    let workshop = prepared();
    run(&workshop, &[]).succeeds();
    let last = 8; // two updates an epoch: a loss has five pairs, and takes one at a time
    let expected: Vec<_> = HEADS.map(|head| weights(&workshop, "heads", head, last)).into();
    let figures = fs::read_to_string(workshop.path("heads/figures.jsonl")).unwrap();
    for step in [6, last] {
        fs::remove_dir_all(workshop.path(&format!("heads/checkpoints/step-{step}"))).unwrap();
    }
    let again = run(&workshop, &[]);
    again.succeeds();
    for (head, expected) in HEADS.into_iter().zip(&expected) {
        assert_same(&weights(&workshop, "heads", head, last), expected);
    }
    assert_eq!(fs::read_to_string(workshop.path("heads/figures.jsonl")).unwrap(), figures);
    let steps: Vec<u64> = fs::read_to_string(workshop.path("heads/metrics.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (1..=last).collect::<Vec<_>>());
    let other = run(&workshop, &["training.epochs=9"]);
    other.fails(2, &["`training`"]);
}

/// Where features of windows are kept, or that they are not, changes no figure.
#[test]
fn kept_features_change_no_figure() {
    let workshop = prepared();
    let figures = |name: &str, overrides: &[&str]| {
        let dir = format!("run.dir={name}");
        let mut all = vec![dir.as_str(), "training.epochs=2"];
        all.extend(overrides);
        run(&workshop, &all).succeeds();
        fs::read_to_string(workshop.path(&format!("{name}/figures.jsonl"))).unwrap()
    };
    let kept = figures("memory", &[]);
    assert_eq!(figures("disk", &["test.memory_gigabytes=0"]), kept);
    assert_eq!(figures("neither", &["test.memory_gigabytes=0", "test.disk_gigabytes=0"]), kept);
    assert_eq!(figures("one_by_one", &["test.window_batch=1"]).lines().count(), 4);
}

/// Two and four ranks train what one does, and find the same figures, up to rounding.
#[test]
fn any_number_of_ranks_finds_the_same() {
    let workshop = prepared();
    let figures = |ranks: usize| {
        let dir = format!("run.dir=ranks{ranks}");
        let started = Ranks::start(ranks, |_| {
            let mut command = workshop.command(&["eval", "segmentation", "--config", "heads.toml"]);
            command.args(["--set", &dir, "--set", "training.epochs=3"]);
            command.args(["--set", "checkpoint.writers=1"]);
            command
        });
        started.finish(Duration::from_secs(120)).into_iter().for_each(|one| _ = one.succeeds());
        let text =
            fs::read_to_string(workshop.path(&format!("ranks{ranks}/figures.jsonl"))).unwrap();
        let losses: Vec<f64> =
            fs::read_to_string(workshop.path(&format!("ranks{ranks}/metrics.jsonl")))
                .unwrap()
                .lines()
                .flat_map(|line| {
                    let line: Value = serde_json::from_str(line).unwrap();
                    let heads = line["students"].as_array().unwrap().clone();
                    heads.into_iter().map(|head| head["loss"].as_f64().unwrap())
                })
                .collect();
        (text.lines().count(), losses, weights(&workshop, &format!("ranks{ranks}"), HEADS[0], 6))
    };
    let (lines, losses, alone) = figures(1);
    assert_eq!((lines, losses.len()), (2 * 3, 2 * 6));
    for ranks in [2, 4] {
        let (_, found, weights) = figures(ranks);
        for (found, expected) in found.iter().zip(&losses) {
            assert!(
                (found / expected - 1.0).abs() < 1e-3,
                "{ranks} ranks: {found}, not {expected}"
            );
        }
        for name in ["norm.running_mean", "norm.running_var", "predict.weight"] {
            let off = crate::support::golden::relative_error(&weights[name], &alone[name]);
            assert!(off < 1e-3, "{ranks} ranks: {name} is {off:.1e} off");
        }
    }
}

/// Depth with every option on the command line, on a data set of one's own.
#[test]
fn depth_is_learned_too() {
    let workshop = prepared();
    let config = SEGMENTATION
        .replace("\"train.txt\"", "\"depth_train.txt\"")
        .replace("\"test.txt\"", "\"depth_test.txt\"")
        .replace(
            "{ task = \"segmentation\", classes = 3 }",
            "{ task = \"depth\", divisor = 1000.0, most = 10.0 }",
        );
    fs::write(workshop.path("depth.toml"), config).unwrap();
    let mut command = workshop.command(&["eval", "depth", "--config", "depth.toml"]);
    command.args(["--head", "linear", "--out", "depth", "--epochs", "12", "--set", "seed=3"]);
    let finished = Finished::of(command.output().unwrap()).succeeds();
    assert!(
        finished.stdout.contains("d1") && finished.stdout.contains("silog"),
        "{}",
        finished.stdout
    );
    let text = fs::read_to_string(workshop.path("depth/figures.jsonl")).unwrap();
    let abs_rel: Vec<f64> = text
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let figures = line["figures"].as_array().unwrap().clone();
            figures.iter().find(|figure| figure[0] == "abs_rel").unwrap()[1].as_f64().unwrap()
        })
        .collect();
    assert_eq!(abs_rel.len(), 12);
    assert!(abs_rel[11] < abs_rel[0], "{abs_rel:?}");
}

/// One clear error before anything is trained.
#[test]
fn bad_input_is_told_before_training() {
    let workshop = prepared();
    fs::remove_file(workshop.path("masks/2.png")).unwrap();
    run(&workshop, &[]).fails(1, &["masks/2.png"]);
    assert!(!workshop.path("heads").exists());
    let workshop = prepared();
    run(&workshop, &["data.targets.classes=2"])
        .fails(1, &["pixels of class 2, which is none of the 2 classes"]);
    run(&workshop, &["training.crop_size=60"]).fails(2, &["training.crop_size"]);
    run(&workshop, &["encoder.weights=nowhere"]).fails(1, &["nowhere"]);
    run(&workshop, &["heads.0.kind=conv"]).fails(2, &["heads[0].kind"]);
    let command = |arguments: &[&str]| {
        Finished::of(workshop.command(&[&["eval", "depth"], arguments].concat()).output().unwrap())
    };
    command(&[]).fails(2, &["required arguments"]);
    let missing = command(&["--dataset", "kitti", "--root", ".", "--weights", "export"]);
    missing.fails(1, &["kitti_eigen_train_files_with_gt.txt"]);
    assert!(Path::new(&workshop.path("export")).exists());
}

/// The reference has every key, and every published configuration is read.
#[test]
fn configurations_are_read_and_the_reference_is_whole() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/eval");
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if fs::read_to_string(&path).unwrap().contains("[encoders.") {
            continue; // of `distill eval all`, whose tests read it
        }
        let config = HeadsConfig::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        if let Some((dataset, head)) = name.split_once('_') {
            assert_eq!(config.data.name(), dataset);
            assert_eq!(config.heads[0].name, head);
            // What is written out is what is left out.
            let bare = format!(
                "run = {{ dir = \"x\" }}\nencoder.weights = \"w\"\nheads = [{{ kind = \"{head}\" }}]\n\
                 data = {{ dataset = \"{dataset}\", root = \"d\" }}"
            );
            let bare = HeadsConfig::from_table(bare.parse().unwrap()).unwrap();
            assert_eq!((bare.training, bare.heads), (config.training, config.heads), "{name}");
            count += 1;
        }
    }
    assert_eq!(count, 10);
    let reference = fs::read_to_string(folder.join("reference.toml")).unwrap();
    let config = HeadsConfig::load(&folder.join("reference.toml"), &[]).unwrap();
    let resolved: toml::Table = config.to_toml().parse().unwrap();
    for (table, value) in &resolved {
        let tables = match value {
            toml::Value::Table(inner) => vec![inner.clone()],
            toml::Value::Array(tables) => {
                tables.iter().filter_map(|one| one.as_table().cloned()).collect()
            }
            _ => vec![],
        };
        for key in tables.iter().flat_map(|table| table.keys()) {
            let known = format!("{key} = ");
            let is_there = reference.lines().any(|line| {
                let line = line.trim_start_matches(['#', ' ']);
                line.starts_with(&known) || line.starts_with(&format!("[{table}.{key}]"))
            });
            // The exchange of gradients has no keys of its own here, and heads are small.
            let is_of_large = ["writers", "pinned_gigabytes"].contains(&key.as_str());
            assert!(is_there || table == "distributed" || is_of_large, "[{table}] {key}");
        }
    }
}

/// SIGTERM saves and ends with 75, whether an update or a test is under way; the same command goes on and
/// ends as if nothing had been.
#[test]
fn a_signal_saves_and_the_same_command_goes_on() {
    let workshop = prepared();
    let epochs = "training.epochs=12";
    run(&workshop, &["run.dir=whole", epochs]).succeeds();
    for stop_at in [3, 9] {
        let mut command = workshop.command(&["eval", "segmentation", "--config", "heads.toml"]);
        command.args(["--set", epochs]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        wait_for_steps(&workshop, "heads", stop_at);
        send("TERM", child.id());
        let status = child.wait().unwrap();
        // A machine that stood still may let it finish.
        assert!([Some(75), Some(0)].contains(&status.code()), "{status}");
    }
    run(&workshop, &[epochs]).succeeds();
    for head in HEADS {
        assert_same(&weights(&workshop, "heads", head, 24), &weights(&workshop, "whole", head, 24));
    }
    let figures = |run: &str| fs::read_to_string(workshop.path(run).join("figures.jsonl")).unwrap();
    assert_eq!(figures("heads"), figures("whole"));
}

/// An image that one rank cannot read ends all ranks, with the state after the last update that all took: mended,
/// they end as if nothing had been.
#[test]
fn an_error_of_data_saves_what_all_ranks_have() {
    let workshop = prepared();
    let good = fs::read(workshop.path("images/0.png")).unwrap();
    let odd = |name: &str| {
        let mask = fs::read(workshop.path("masks/0.png")).unwrap();
        fs::write(workshop.path(&format!("masks/{name}.png")), mask).unwrap();
        fs::write(workshop.path(&format!("images/{name}.png")), &good).unwrap();
        format!("images/{name}.png masks/{name}.png\n")
    };
    let list = fs::read_to_string(workshop.path("train.txt")).unwrap();
    fs::write(workshop.path("train.txt"), list.repeat(20) + &odd("odd")).unwrap();
    let start = |dir: &str| {
        let dir = format!("run.dir={dir}");
        Ranks::start(2, |_| {
            let mut command = workshop.command(&["eval", "segmentation", "--config", "heads.toml"]);
            // Under this seed the odd image comes late.
            command.args(["--set", &dir, "--set", "training.epochs=1", "--set", "seed=0"]);
            command.args(["--set", "checkpoint.writers=1"]);
            command
        })
        .finish(Duration::from_secs(60))
    };
    start("whole").into_iter().for_each(|one| _ = one.succeeds());
    fs::write(workshop.path("images/odd.png"), &good[..good.len() / 2]).unwrap();
    let ended = start("heads");
    for one in &ended {
        assert_eq!(one.code, Some(1), "{}", one.stderr);
        for words in ["odd.png", "the state after update", "is saved: the same command goes on"] {
            assert!(one.stderr.contains(words), "`{words}` is not in {}", one.stderr);
        }
    }
    let told = ended.iter().filter(|one| one.stderr.contains("error: rank "));
    assert_eq!(told.count(), 1, "one is told by the other");
    assert_eq!(workshop.checkpoints("heads").len(), 1);
    fs::write(workshop.path("images/odd.png"), &good).unwrap();
    for one in start("heads") {
        one.succeeds();
    }
    for head in HEADS {
        assert_same(&weights(&workshop, "heads", head, 26), &weights(&workshop, "whole", head, 26));
    }
}
