//! A run is what its settings and data say: it goes on as that, or says what is another.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::support::processes::{send, wait_until};
use crate::support::ranks::{Ranks, metrics};
use crate::support::workshop::{Finished, Workshop, image};

/// `distill --config config.toml` with `--accept-changes` and these overrides.
fn accept(workshop: &Workshop, overrides: &[&str]) -> Finished {
    let mut command = workshop.training(overrides);
    Finished::of(command.arg("--accept-changes").output().unwrap())
}

fn config(workshop: &Workshop, run: &str) -> String {
    fs::read_to_string(workshop.path(run).join("config.toml")).unwrap()
}

/// Other data are named, old and new, and accepted or not; a start that is refused leaves no trace.
#[test]
fn other_data_are_accepted_or_refused() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    let before = config(&workshop, "run");
    let fewer = ["schedule.epochs=6", "data.shards=[\"shards/0.tar\"]"];
    let texts = ["`data.shards` was 20 samples in 2 shards", "is 10 samples in 1 shards"];
    let refused = workshop.train(&fewer).fails(2, &[&texts[..], &["--accept-changes"]].concat());
    assert!(!refused.stderr.contains("continuing"), "{}", refused.stderr);
    assert_eq!(config(&workshop, "run"), before);
    // Where shards lie is no part of what they are.
    fs::create_dir(workshop.path("moved")).unwrap();
    for shard in ["0.tar", "1.tar"] {
        fs::copy(workshop.path("shards").join(shard), workshop.path("moved").join(shard)).unwrap();
    }
    workshop.train(&["data.shards=[\"moved/*.tar\"]", "data.label=txt"]).succeeds();
    let accepted = accept(&workshop, &fewer).succeeds();
    assert!(accepted.stderr.contains(texts[0]), "{}", accepted.stderr);
    let written = config(&workshop, "run");
    assert!(written.contains("# up to step 8: data.shards = 20 samples in 2 shards"), "{written}");
    workshop.train(&fewer).succeeds();
}

/// A shard whose images are written anew, each as long as before, is another one: nothing but its bytes tells.
#[test]
fn images_written_anew_are_noticed() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    let shard = workshop.path("shards/1.tar");
    let mut bytes = fs::read(&shard).unwrap();
    let (mut at, mut images) = (0, 0);
    while bytes[at] != 0 {
        let size = std::str::from_utf8(&bytes[at + 124..at + 135]).unwrap();
        let size = usize::from_str_radix(size, 8).unwrap();
        bytes[at + 512 + size / 2] ^= 1;
        (at, images) = (at + 512 + size.next_multiple_of(512), images + 1);
    }
    assert!(images >= 10);
    fs::write(&shard, bytes).unwrap();
    let more = ["schedule.epochs=6", "data.max_failed_share=1"];
    workshop.train(&more).fails(2, &["`data.shards (bytes of images)` was [", "--accept-changes"]);
    let accepted = accept(&workshop, &more).succeeds();
    assert!(accepted.stderr.contains("(bytes of images)"), "{}", accepted.stderr);
    workshop.train(&more).succeeds();
}

/// Of several processes all end by what the first one found, and by nothing else.
#[test]
fn ranks_are_refused_as_one() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    let before = config(&workshop, "run");
    let fewer = ["data.shards=[\"shards/0.tar\"]"];
    let ranks = Ranks::start(2, |_| workshop.training(&fewer));
    for finished in ranks.finish(Duration::from_secs(60)) {
        assert_ne!(finished.code, Some(0));
        assert!(finished.stderr.contains("`data.shards` was 20"), "{}", finished.stderr);
        assert!(!finished.stderr.contains("all nodes share"), "{}", finished.stderr);
    }
    assert_eq!(config(&workshop, "run"), before);
}

/// What a checkpoint's state does not fit into cannot be accepted: the message names it, and the way out.
#[test]
fn another_model_is_another_run() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    let before = config(&workshop, "run");
    let third = "[[students]]\nname = \"three\"\nmodel = { dim = 16, depth = 1, heads = 2, patch_size = 8 }\n[data]\n";
    let file = fs::read_to_string(workshop.path("config.toml")).unwrap();
    fs::write(workshop.path("more.toml"), file.replace("[data]\n", third)).unwrap();
    let more = workshop.command(&["--config", "more.toml", "--accept-changes"]).output().unwrap();
    for (finished, key) in [
        (accept(&workshop, &["students.0.model.dim=64"]), "`students.0.model.dim` was 32"),
        (accept(&workshop, &["teacher.model.dim=64"]), "`teacher.model.dim` was 48"),
        (accept(&workshop, &["students.1.name=zwei"]), "`students.1.name` was \"two\""),
        (Finished::of(more), "`students.2.name` was nothing up to step 8, and is \"three\""),
    ] {
        let failed = finished.fails(2, &[key, "--resume never", "Another run.dir"]);
        assert!(!failed.stderr.contains("mask_grid"), "{}", failed.stderr);
        assert!(!failed.stderr.contains("--accept-changes goes on"), "{}", failed.stderr);
    }
    assert_eq!(config(&workshop, "run"), before);
}

/// How gradients travel, and the batch where branches are skipped by it, are part of what is learned.
#[test]
fn precision_and_skipped_branches_count() {
    let workshop = Workshop::new();
    workshop.train(&["data.batch_size=4"]).succeeds();
    workshop.train(&["data.batch_size=2"]).succeeds();
    let change = "distributed.gradient_precision=bf16";
    workshop.train(&[change]).fails(2, &["`distributed.gradient_precision` was \"fp32\""]);
    let skip = ["run.dir=skip", "students.0.drop_path_mode=skip"];
    workshop.train(&skip).succeeds();
    let other = [&skip[..], &["data.batch_size=4"]].concat();
    workshop.train(&other).fails(2, &["`data.batch_size` was 2 up to step 8, and is 4"]);
}

/// `--dry-run` says what a run would do: not that it would go on where it would be refused.
#[test]
fn a_dry_run_is_refused_as_the_run_would_be() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    let dry = |more: &[&str]| {
        let arguments = [&["--config", "config.toml", "--dry-run"], more].concat();
        Finished::of(workshop.command(&arguments).output().unwrap())
    };
    assert!(dry(&[]).succeeds().stdout.contains("would go on after step 8"));
    dry(&["--set", "loss.patch=l1"]).fails(2, &["`loss.patch` was", "--accept-changes"]);
    dry(&["--set", "data.shards=[\"shards/1.tar\"]"]).fails(2, &["`data.shards` was 20 samples"]);
    let anew = dry(&["--set", "loss.patch=l1", "--resume", "never"]).succeeds();
    assert!(!anew.stdout.contains("would go on"), "{}", anew.stdout);
}

/// A line is the mean over the steps since the last one, and every step is in one: also those between the last line
/// and a stop, and those between the last line and the checkpoint that is gone on from after a kill.
#[test]
fn a_stop_or_a_kill_loses_no_loss() {
    let workshop = Workshop::new();
    let long = ["schedule.steps_per_epoch=1000000", "log.every=1000000"];
    for (checkpoint, signal) in
        [("run/checkpoints/step-8", "KILL"), ("run/checkpoints/step-16", "TERM")]
    {
        let mut run = workshop.start(&long);
        wait_until("a checkpoint", || workshop.path(checkpoint).exists());
        send(signal, run.id());
        assert_eq!(run.wait().unwrap().code(), (signal == "TERM").then_some(75));
    }
    let lines = metrics(&workshop, "run");
    let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert!(steps.starts_with(&[2, 4, 6, 8]), "{steps:?}");
    let last = *steps.last().unwrap();
    assert!(workshop.checkpoints("run").contains(&format!("step-{last}")));
    let of_each = [long[0], "run.dir=each", "checkpoint.every=1000000"];
    let mut each = workshop.start(&of_each);
    wait_until("as many steps", || {
        fs::read_to_string(workshop.path("each/metrics.jsonl"))
            .is_ok_and(|text| text.lines().count() as u64 > last)
    });
    each.kill().unwrap();
    each.wait().unwrap();
    let text = fs::read_to_string(workshop.path("each/metrics.jsonl")).unwrap();
    let loss = |line: &Value| line["students"][0]["loss"].as_f64().unwrap();
    let losses: Vec<f64> = text
        .lines()
        .take(last as usize)
        .map(|line| loss(&serde_json::from_str(line).unwrap()))
        .collect();
    let mut before = 0;
    for (line, step) in lines.iter().zip(steps) {
        let own = &losses[before..step as usize];
        let mean = own.iter().sum::<f64>() / own.len() as f64;
        assert!((mean - loss(line)).abs() < 1e-6, "up to {step}: {} is not {mean}", loss(line));
        before = step as usize;
    }
}

/// A file of a run's checkpoint has the heads that its run says, and no others.
#[test]
fn heads_of_a_checkpoint_are_its_runs() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    let file = "run/checkpoints/step-8/one.safetensors";
    let export = |more: &[&str], out: &str| {
        let arguments = [&["export", "--weights", file, "--out", out], more].concat();
        Finished::of(workshop.command(&arguments).output().unwrap())
    };
    export(&["--heads", "4"], "wrong").fails(1, &["4 attention heads are asked for", "has 2"]);
    export(&[], "right").succeeds();
    let written = fs::read_to_string(workshop.path("right/config.json")).unwrap();
    assert!(written.contains("\"num_attention_heads\": 2"), "{written}");
}

/// Students that begin with weights of another normalisation are told of.
#[test]
fn weights_of_another_normalisation_are_told() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    let begin = ["run.dir=begun", "students.1.weights=run/exports/two"];
    let same = workshop.train(&begin).succeeds();
    assert!(!same.stderr.contains("another kind"), "{}", same.stderr);
    let other = [&begin[..], &["run.dir=other", "data.mean=[0.5, 0.5, 0.5]"]].concat();
    let told = workshop.train(&other).succeeds();
    assert!(
        told.stderr.contains("students.1.weights: preprocessor_config.json"),
        "{}",
        told.stderr
    );
}

/// What is odd about a shard is said once by a command that opens it twice.
#[test]
fn a_check_warns_once() {
    let workshop = Workshop::new();
    let members = [("a.jpg".to_string(), image(1)), ("b.gif".into(), b"GIF89a".to_vec())];
    workshop.shard("odd.tar", &members);
    let done = workshop.command(&["data", "check", "odd.tar"]).output().unwrap();
    let done = Finished::of(done).succeeds();
    assert_eq!(done.stderr.matches(".gif 1").count(), 1, "{}", done.stderr);
}

/// Weights are exported with the normalisation that they were trained with, whatever is configured since.
#[test]
fn weights_keep_their_normalisation() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    let mean = |folder: &str| {
        let file = workshop.path(folder).join("preprocessor_config.json");
        let json: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        json["image_mean"][0].as_f64().unwrap()
    };
    let other = "data.mean=[0.25, 0.25, 0.25]";
    accept(&workshop, &[other]).succeeds();
    assert_eq!(mean("run/exports/one"), 0.485, "nothing was trained with the other");
    accept(&workshop, &[other, "schedule.epochs=6"]).succeeds();
    assert_eq!(mean("run/exports/one"), 0.25);
    let export =
        ["export", "--run", "run", "--student", "one", "--checkpoint", "8", "--out", "old"];
    Finished::of(workshop.command(&export).output().unwrap()).succeeds();
    assert_eq!(mean("old"), 0.485);
}

/// Weights where a run is wanted are told for what they are.
#[test]
fn an_export_is_no_run() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    let export = ["export", "--run", "run/exports/one", "--out", "out"];
    let export = Finished::of(workshop.command(&export).output().unwrap());
    export.fails(2, &["--run: run/exports/one is no run's directory", "--weights run/exports/one"]);
}

/// A slip of the hand is told at once.
#[test]
fn absurd_numbers_are_refused() {
    let workshop = Workshop::new();
    for (change, key) in [
        ("data.mean=[123.675, 116.28, 103.53]", "data.mean"),
        ("data.std=[58.395, 57.12, 57.375]", "data.std"),
        ("data.input_size=100000", "data.input_size"),
        ("data.prefetch_batches=1000000", "data.prefetch_batches"),
        ("run.threads=100000", "run.threads"),
        ("data.batch_size=100000000", "data.batch_size"),
        ("students.0.model.dim=100000000", "students.0.model.dim"),
    ] {
        workshop.train(&[change]).fails(2, &[key, "found"]);
    }
}
