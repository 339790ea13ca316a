//! What frames and summaries say.

use std::fs;
use std::path::Path;

use distill::artifacts::MetricsLines;
use distill::watch::{Panel, View, Watched, frame_as_text, now};

use super::{MadeRun, lines};
use crate::support::workshop::{Finished, Workshop, labelled};

fn watch(workshop: &Workshop, arguments: &[&str]) -> Finished {
    let all = [&["watch"], arguments].concat();
    Finished::of(workshop.command(&all).output().unwrap())
}

fn frame(run: &Path, panel: Panel, size: (u16, u16)) -> String {
    let mut watched = Watched::open(run, None).unwrap();
    watched.look_at_all().unwrap();
    let view = View { panel, ..View::default() };
    frame_as_text(&watched, &view, now(), size)
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}

/// A real run: the summary has the numbers of its last line, and a frame fits a terminal.
#[test]
fn a_real_run_is_summed_up() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    let done = watch(&workshop, &["run"]).succeeds();
    assert!(done.stderr.contains("standard output is no terminal"), "{}", done.stderr);
    let read = MetricsLines::read(&workshop.path("run")).unwrap();
    let last = &read.lines.last().unwrap().metrics;
    has(&done.stdout, &["state            complete", "step 8 of 8 (100.0 %)", "step 8, "]);
    for trainee in &last.trainees {
        let line =
            done.stdout.lines().find(|line| line.starts_with(&format!("loss of {}", trainee.name)));
        let shown: f64 = line.unwrap().split_whitespace().nth(3).unwrap().parse().unwrap();
        assert!((shown / trainee.loss - 1.0).abs() < 1e-3, "{shown} for {}", trainee.loss);
    }
    let once = watch(&workshop, &["--once", "run"]).succeeds().stdout;
    assert_eq!(once.lines().count(), 24);
    assert!(once.lines().all(|line| line.chars().count() <= 80), "{once}");
    has(&once, &["complete", "loss of one", "learning rate", "peak memory", "q leave"]);
}

/// Pre-training with an evaluation on the way and at its end: the figures of the files.
#[test]
fn figures_of_evaluations_are_shown() {
    let (workshop, settings) = labelled();
    let settings: Vec<&str> =
        settings.iter().map(|text| &**text).chain(["evaluation.knn.every=4"]).collect();
    workshop.pretrain(&settings).succeeds();
    let frame = |panel: &str| {
        watch(&workshop, &["--once", "--panel", panel, "--width", "100", "pre"]).succeeds().stdout
    };
    let file = fs::read_to_string(workshop.path("pre/evaluation.json")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    let shown = frame("evaluations");
    has(&shown, &["evaluation", "knn", "encoder trained", "k = 1"]);
    let trained = file["results"][0]["measurements"].as_array().unwrap();
    let trained = trained.iter().find(|one| one["role"] == "trained").unwrap();
    has(&shown, &[&format!("{:.1} %", 100.0 * trained["value"].as_f64().unwrap())]);
    // Without the figures of the end, those on the way are there, of the last step that had some.
    fs::remove_file(workshop.path("pre/evaluation.json")).unwrap();
    has(&frame("evaluations"), &["knn", "encoder trained", "top1_k1", "8"]);
    has(&frame("losses"), &["losses", "encoder  "]);
}

/// A run of many ranks on GPUs, at 80 columns and at 40.
#[test]
fn what_a_cluster_tells_is_shown_wide_and_narrow() {
    let run = MadeRun::new();
    run.add(1..=100, 3.0);
    let wide = frame(&run.path(), Panel::Overview, (80, 30));
    let facts = [
        "flagship",
        "training",
        "step 100 of 400 (25.0 %)",
        "10 min 0 s left",
        "last line ",
        "4,096.5",
        "1.00e-3",
        "2.5 % (0.05 s)",
        "5.0 % (0.1 s)",
        "404.000",
        "40.8 %",
        "70.00 GiB",
        "17 (node3 pid",
        "rank 17 holds the others up",
        "failed images",
        "Overview",
    ];
    has(&wide, &facts);
    let narrow = frame(&run.path(), Panel::Overview, (40, 40));
    assert!(narrow.lines().all(|line| line.chars().count() <= 40), "{narrow}");
    has(&narrow, &facts[..12]);
    for panel in Panel::ALL {
        for size in [(1, 1), (7, 3), (24, 10), (39, 24), (40, 11), (64, 12), (300, 90)] {
            let text = frame(&run.path(), panel, size);
            assert_eq!(text.lines().count(), usize::from(size.1), "{panel:?} at {size:?}");
        }
    }
}

/// Losses that are not finite, torn lines and unknown ones spoil nothing.
#[test]
fn odd_lines_are_counted_and_passed_over() {
    let run = MadeRun::new();
    let text = lines(1..=3, 1.0).replace("\"loss\":0.5", "\"loss\":null");
    fs::write(run.metrics(), format!("{text}{{\"step\": 1}}\nno json\n\n{{\"time\": 17")).unwrap();
    let overview = frame(&run.path(), Panel::Overview, (80, 30));
    has(&overview, &["step 3 of 400", "unreadable lines 2"]);
    fs::write(run.metrics(), lines(1..=2, 1.0).replace("\"loss\":0.5", "\"loss\":null")).unwrap();
    has(&frame(&run.path(), Panel::Overview, (80, 30)), &["loss of vith16: not finite"]);
}

/// Warnings are those of the log in the directory, or of the file that is named.
#[test]
fn warnings_come_from_a_log() {
    let workshop = Workshop::new();
    fs::create_dir(workshop.path("run")).unwrap();
    fs::write(workshop.path("run/metrics.jsonl"), lines(1..=3, 1.0)).unwrap();
    fs::write(workshop.path("run/train.log"), "10:00:00 warning: one\x1b[2J\n10:00:01 step\n")
        .unwrap();
    let done = watch(&workshop, &["run"]).succeeds();
    assert!(done.stdout.contains("10:00:00 warning: one\n"), "{}", done.stdout);
    assert!(!done.stdout.contains('\x1b') && !done.stdout.contains("10:00:01"), "{}", done.stdout);
    let json = r#"{"timestamp":"2026-01-02T03:04:05.6Z","level":"ERROR","message":"two"}"#;
    fs::write(workshop.path("other"), json.to_string() + "\n").unwrap();
    let done = watch(&workshop, &["run", "--log", "other"]).succeeds();
    has(&done.stdout, &["03:04:05 error: two"]);
    assert!(!done.stdout.contains("one"), "{}", done.stdout);
    watch(&workshop, &["run", "--log", "none"]).fails(1, &["--log none", "no such file"]);
}

/// A directory before its run is waited for; a folder of other things is none.
#[test]
fn folders_that_are_no_runs_are_told() {
    let workshop = Workshop::new();
    fs::create_dir(workshop.path("empty")).unwrap();
    has(&watch(&workshop, &["empty"]).succeeds().stdout, &["no step is recorded yet"]);
    watch(&workshop, &["shards"]).fails(1, &["shards is no run directory", "run.dir"]);
    watch(&workshop, &["nowhere"]).fails(1, &["no directory nowhere"]);
    watch(&workshop, &["config.toml"]).fails(1, &["cannot list config.toml"]);
    watch(&workshop, &["--width", "50", "empty"]).fails(2, &["required arguments"]);
}
