//! `distill pretrain --score` and what curation makes of it.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::column;
use crate::support::ranks::Ranks;
use crate::support::workshop::{Finished, Workshop, image};

/// A trained autoencoder beside two shards, the second of which has a grey image and a broken one.
fn trained() -> Workshop {
    let workshop = Workshop::pretraining();
    let mut grey = std::io::Cursor::new(Vec::new());
    let pixels = image::RgbImage::from_pixel(40, 30, image::Rgb([90; 3]));
    pixels.write_to(&mut grey, image::ImageFormat::Png).unwrap();
    let mut members: Vec<_> = (0..5).map(|i| (format!("n{i}.jpg"), image(100 + i))).collect();
    members.insert(1, ("grey.png".into(), grey.into_inner()));
    members.insert(3, ("broken.jpg".into(), vec![1; 50]));
    workshop.shard("shards/1.tar", &members);
    workshop.pretrain(&["data.shards=[\"shards/0.tar\"]"]).succeeds();
    workshop
}

const SCORE: [&str; 7] =
    ["pretrain", "--config", "pretrain.toml", "--score", "shards/*.tar", "--out", "scores"];

fn score(workshop: &Workshop) -> Finished {
    Finished::of(workshop.command(&SCORE).output().unwrap())
}

fn read(workshop: &Workshop, file: &str) -> Value {
    serde_json::from_slice(&fs::read(workshop.path(file)).unwrap()).unwrap()
}

/// The loop of self-curation: shards are scored by an autoencoder, and training takes what curation
/// leaves of them by these very files.
#[test]
fn scored_shards_are_curated() {
    let workshop = trained();
    score(&workshop).succeeds();
    let (first, second) =
        (read(&workshop, "scores/shards/0.json"), read(&workshop, "scores/shards/1.json"));
    let names =
        |scores: &Value| -> Vec<String> { scores.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(names(&first).len(), 10);
    assert_eq!(names(&second), ["grey.png", "n0.jpg", "n1.jpg", "n2.jpg", "n3.jpg", "n4.jpg"]);
    assert_eq!(second["grey.png"]["histogram_score"], 0.0);
    assert_eq!(
        (&second["grey.png"]["width"], &second["grey.png"]["height"]),
        (&40.0.into(), &30.0.into())
    );
    for scores in [&first, &second] {
        let entropies = column(scores, "histogram_score");
        assert!(entropies.iter().all(|bits| (0.0..=8.0).contains(bits)), "{entropies:?}");
        let losses = column(scores, "mae_loss");
        assert!(losses.iter().all(|&loss| loss.is_finite() && loss > 0.0), "{losses:?}");
    }

    let curated = [
        "--set",
        "data.curation={ json_root = \"scores\", min_histogram_score = 0.5, min_side = 31 }",
    ];
    let check = |config: &str| {
        let arguments = [&["data", "check", "--config", config][..], &curated].concat();
        Finished::of(workshop.command(&arguments).output().unwrap()).succeeds().stdout
    };
    // The grey image goes by its entropy, the broken one for want of scores.
    for config in ["pretrain.toml", "config.toml"] {
        let told = check(config);
        assert!(told.contains("curation keeps 15 of 17 images"), "{told}");
    }
    let set = [curated[1], "run.dir=curated"];
    workshop.pretrain(&set).succeeds();
    workshop.train(&[curated[1], "run.dir=distilled"]).succeeds();
}

/// An image's score is that of its shard, place and weights alone: not of the batch size, of the
/// number of processes, or of what else is scored; and what is there is not made again.
#[test]
fn scores_do_not_depend_on_how_they_were_made() {
    let workshop = trained();
    score(&workshop).succeeds();
    let of = |shard: &str| read(&workshop, &format!("scores/shards/{shard}.json"));
    let (first, second) = (of("0"), of("1"));
    fs::write(workshop.path("scores/shards/0.json"), "{}").unwrap();
    fs::remove_file(workshop.path("scores/shards/1.json")).unwrap();
    let again = score(&workshop).succeeds();
    assert!(again.stderr.contains("1 shards have their scores already"), "{}", again.stderr);
    assert_eq!(of("0"), serde_json::json!({}), "what is there stays");
    assert_near(&of("1"), &second);

    fs::remove_dir_all(workshop.path("scores")).unwrap();
    let command = |_: usize| {
        let mut command = workshop.command(&SCORE);
        command.args(["--set", "data.batch_size=7"]);
        command
    };
    for finished in Ranks::start(2, command).finish(Duration::from_secs(60)) {
        finished.succeeds();
    }
    assert_near(&of("0"), &first);
    assert_near(&of("1"), &second);
}

/// Scores of different weights never lie in one folder, nor those of two shards in one file.
#[test]
fn scores_that_would_mix_are_refused() {
    let workshop = trained();
    score(&workshop).succeeds();
    workshop.pretrain(&["data.shards=[\"shards/0.tar\"]", "schedule.epochs=5"]).succeeds();
    fs::remove_file(workshop.path("scores/shards/0.json")).unwrap();
    score(&workshop).fails(1, &["scores holds scores by other weights", "step 8", "is 10"]);
    assert!(!workshop.path("scores/shards/0.json").exists());
    fs::create_dir_all(workshop.path("other/shards")).unwrap();
    fs::copy(workshop.path("shards/0.tar"), workshop.path("other/shards/0.tar")).unwrap();
    let both = ["pretrain", "--config", "pretrain.toml", "--score", "shards/0.tar"];
    let both = [&both[..], &["other/shards/0.tar", "--out", "both"]].concat();
    let run = Finished::of(workshop.command(&both).output().unwrap());
    run.fails(1, &["shards/0.tar and other/shards/0.tar", "same folder and name"]);
}

/// The same members, and values that differ by rounding at most.
#[track_caller]
fn assert_near(found: &Value, expected: &Value) {
    let names = |scores: &Value| scores.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for key in ["histogram_score", "width", "height", "mae_loss"] {
        for (found, expected) in column(found, key).iter().zip(column(expected, key)) {
            assert!(
                (found - expected).abs() <= 1e-4 * expected.abs(),
                "{key}: {found}, {expected}"
            );
        }
    }
}

/// What is missing for scoring is said in a line.
#[test]
fn scoring_says_what_it_lacks() {
    let workshop = Workshop::pretraining();
    score(&workshop).fails(1, &["pre has no checkpoint", "without --score"]);
    let none = ["pretrain", "--config", "pretrain.toml", "--score", "none/*.tar", "--out", "x"];
    Finished::of(workshop.command(&none).output().unwrap()).fails(2, &["--score", "none/*.tar"]);
    let nowhere = ["pretrain", "--config", "pretrain.toml", "--score", "shards/*.tar"];
    let finished = Finished::of(workshop.command(&nowhere).output().unwrap());
    assert_eq!(finished.code, Some(2));
    assert!(finished.stderr.contains("--out <JSON_ROOT>"), "{}", finished.stderr);
}
