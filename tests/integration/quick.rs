//! `distill quick` and `distill init`: a recipe chosen for images, encoders and machine.

use std::fs;
use std::io::Write;

use std::process::{Command, Stdio};

use toml::Table;

use crate::support::device::program;
use crate::support::ranks::metrics;
use crate::support::workshop::{Finished, Workshop, image};

/// A workshop with a teacher of patches of 8 pixels, seen at 32, and folders of images with classes, also held out.
fn workshop() -> Workshop {
    let workshop = Workshop::new();
    workshop.train(&["schedule.epochs=1"]).succeeds();
    for (split, count) in [("train", 24), ("val", 8)] {
        for number in 0..count {
            let folder = workshop.path(&format!("photos/{split}/{}", ["cat", "dog"][number % 2]));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("{number}.jpg")), image(number as u32)).unwrap();
        }
    }
    workshop
}

fn distill(workshop: &Workshop, words: &str) -> Finished {
    let words: Vec<&str> = words.split(' ').collect();
    Finished::of(workshop.command(&words).output().unwrap())
}

fn recipe(workshop: &Workshop, place: &str) -> Table {
    fs::read_to_string(workshop.path(place)).unwrap().parse().unwrap()
}

const QUICK: &str = "quick --images photos --teacher run/exports/one --student vit_t16 --out quick --epochs 2 --device cpu";

/// One command trains from folders as they lie, says what it chose, measures with what is held out, and goes on where
/// it stopped; its recipe is a configuration like any other.
#[test]
fn one_command_trains_from_folders() {
    let workshop = workshop();
    let planned = distill(&workshop, &format!("{QUICK} --dry-run")).succeeds();
    for words in [
        "24 in photos/train, with classes; held out: photos/val",
        "vit_t16 (5.",
        "recipe     quick/recipe.toml",
    ] {
        assert!(planned.stdout.contains(words), "`{words}` is not in {}", planned.stdout);
    }
    assert!(!workshop.path("quick/metrics.jsonl").exists());
    let text = fs::read_to_string(workshop.path("quick/recipe.toml")).unwrap();
    assert!(text.starts_with("# distill quick --images photos --teacher run/exports/one --student vit_t16 --out quick --epochs 2 --device cpu\n"), "{text}");
    let chosen: Table = text.parse().unwrap();
    // A student's patches of 16 pixels and the teacher's of 8 both divide it.
    assert_eq!(chosen["data"]["input_size"].as_integer(), Some(32));
    assert_eq!(chosen["schedule"]["epochs"].as_float(), Some(2.0));
    assert_eq!(chosen["run"]["device"].as_str(), Some("cpu"), "what was asked for");
    assert_eq!(chosen["evaluation"]["knn"]["held_out"][0].as_str(), Some("photos/val"));
    let done = distill(&workshop, QUICK).succeeds();
    assert!(
        done.stdout.contains("k-NN top-1") && done.stdout.contains("8 held-out images"),
        "{}",
        done.stdout
    );
    assert!(workshop.path("quick/exports/vit_t16/model.safetensors").is_file());
    let steps = metrics(&workshop, "quick").len();
    let again = distill(&workshop, QUICK).succeeds();
    assert!(again.stderr.contains("going on by quick/recipe.toml"), "{}", again.stderr);
    assert_eq!(metrics(&workshop, "quick").len(), steps, "nothing is left to do");
    let config = ["--config", "quick/recipe.toml", "--set", "schedule.epochs=3"];
    Finished::of(workshop.command(&config).output().unwrap()).succeeds();
    assert!(metrics(&workshop, "quick").len() > steps);
}

/// Another command does not take over what one has begun.
#[test]
fn another_wish_needs_another_place() {
    let workshop = workshop();
    distill(&workshop, &format!("{QUICK} --dry-run")).succeeds();
    let before = fs::read(workshop.path("quick/recipe.toml")).unwrap();
    distill(&workshop, &QUICK.replace("vit_t16", "vit_s16")).fails(
        2,
        &["quick/recipe.toml", "by `distill quick --images photos", "another --out begins anew"],
    );
    assert_eq!(fs::read(workshop.path("quick/recipe.toml")).unwrap(), before);
}

/// Students are found by the ends of their names, in the teacher's family first; sizes fit all patches; shards in a
/// folder are taken as such.
#[test]
fn what_is_left_out_is_chosen() {
    let workshop = workshop();
    let init = |file: &str, more: &str| {
        let words = format!("init {file} --teacher run/exports/one --device cpu {more}");
        distill(&workshop, &words).succeeds();
        recipe(&workshop, file)
    };
    let of_shards = init("a.toml", "--images shards --student vits14,ViT-B/16,vits16");
    let names: Vec<&str> = of_shards["students"]
        .as_array()
        .unwrap()
        .iter()
        .map(|student| student["model"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["dinov2_vits14", "pixio_vitb16", "dinov3_vits16"]);
    assert_eq!(of_shards["data"]["shards"][0].as_str(), Some("shards/*.tar"));
    assert_eq!(of_shards["data"]["input_size"].as_integer(), Some(112), "patches of 8, 14 and 16");
    assert_eq!(of_shards["run"]["dir"].as_str(), Some("runs/a"));
    assert!(of_shards.get("evaluation").is_none());
    // 20 images: a step of one is the largest of which there are twenty.
    assert_eq!(of_shards["data"]["batch_size"].as_integer(), Some(1));
    let asked = init(
        "b.toml",
        "--images photos/train --held-out photos/val --student vit_t16 --batch 6 --input-size 48",
    );
    assert_eq!(asked["data"]["batch_size"].as_integer(), Some(6));
    assert_eq!(asked["data"]["input_size"].as_integer(), Some(48));
    assert_eq!(asked["evaluation"]["knn"]["reference"][0].as_str(), Some("photos/train"));
    let without = init("c.toml", "--images photos --student siglip_vitb16,vit_t16");
    assert_eq!(
        without["students"][0]["loss"]["class"].as_str(),
        Some("none"),
        "it has no class token"
    );
    assert!(without["students"][1].get("loss").is_none());
    // What it wrote is a configuration that passes all checks.
    Finished::of(workshop.command(&["--config", "b.toml", "--dry-run"]).output().unwrap())
        .succeeds();
}

/// One error says what was found and what would do.
#[test]
fn mistakes_are_named() {
    let workshop = workshop();
    let rest = "--images photos --teacher run/exports/one";
    for (words, code, parts) in [
        (
            format!("init a.toml {rest} --student vit_x16"),
            1,
            &["`vit_x16`", "dinov3_vits16", "pixio_vitb16"][..],
        ),
        (format!("init a.toml {rest} --student vit_t16,vit_t16"), 1, &["twice"]),
        (
            format!("init a.toml {rest} --student vit_t16 --input-size 40"),
            1,
            &["--input-size is 40", "multiple of 16"],
        ),
        (format!("init a.toml {rest}"), 2, &["--student", "is missing"]),
        (
            "init a.toml --images nothing --teacher run/exports/one --student vit_t16".into(),
            2,
            &["--images", "nothing"],
        ),
        (
            "init a.toml --images photos --teacher nothing --student vit_t16".into(),
            1,
            &["the teacher's weights", "nothing"],
        ),
        (format!("init config.toml {rest} --student vit_t16"), 2, &["config.toml", "--force"]),
    ] {
        distill(&workshop, &words).fails(code, parts);
        assert!(!workshop.path("a.toml").exists());
    }
}

/// What is not given is asked for at a terminal.
#[test]
fn a_terminal_is_asked() {
    let workshop = workshop();
    let line = format!("{} init asked.toml --device cpu", program().display());
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(workshop.path(""));
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let answers = b"photos\nrun/exports/one\nvit_t16\n";
    child.stdin.as_mut().unwrap().write_all(answers).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    for question in ["Images: a folder", "Teacher: its weights", "Students", "wrote asked.toml"] {
        assert!(said.contains(question), "`{question}` is not in {said}");
    }
    assert_eq!(recipe(&workshop, "asked.toml")["data"]["shards"][0].as_str(), Some("photos/train"));
}
