//! Whole runs through the command line: what comes out, exact resume, and every way to fail.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::processes::send;
use crate::support::workshop::{Finished, Workshop};

fn metrics(workshop: &Workshop, run: &str) -> Vec<Value> {
    let text = fs::read_to_string(workshop.path(run).join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// One command trains both students and leaves everything that the design promises.
#[test]
fn a_run_leaves_what_is_promised() {
    let workshop = Workshop::new();
    let set = ["checkpoint.keep=2", "export.formats=[\"hf\", \"pixio\"]"];
    let done = workshop.train(&set).succeeds();
    for file in [
        "config.toml",
        "metrics.jsonl",
        "tensorboard",
        "exports/one/config.json",
        "exports/one/model.safetensors",
        "exports/one/preprocessor_config.json",
        "exports/one/pixio.safetensors",
        "exports/two/model.safetensors",
    ] {
        assert!(workshop.path("run").join(file).exists(), "{file} is missing");
    }
    assert_eq!(workshop.checkpoints("run"), ["step-6", "step-8"], "the last two of four stay");
    assert!(done.stderr.contains("random weights"), "{}", done.stderr);
    for part in ["8 steps", "run/exports/one", "run/exports/two", "Try next"] {
        assert!(done.stdout.contains(part), "`{part}` is not in: {}", done.stdout);
    }
    let rows = metrics(&workshop, "run");
    assert_eq!(rows.len(), 8);
    for student in 0..2 {
        let loss = |row: &Value| row["students"][student]["loss"].as_f64().unwrap();
        let (first, last) = (loss(&rows[0]), loss(&rows[7]));
        assert!(last < first * 0.95, "student {student} learned: {first} -> {last}");
    }
    assert_eq!(rows[7]["images_seen"], 32);
}

/// Running a finished run again does no work twice and says so.
#[test]
fn a_finished_run_stays_finished() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    let before = workshop.checkpoint("run", 8);
    let again = workshop.train(&[]).succeeds();
    assert!(again.stderr.contains("complete"), "{}", again.stderr);
    assert_eq!(workshop.checkpoint("run", 8), before);
    assert_eq!(metrics(&workshop, "run").len(), 8);
}

/// The heart of it: a run that is asked to stop and continued ends bit for bit where an
/// uninterrupted one ends. Weights and optimizer states of both students are compared.
#[test]
fn a_stopped_run_resumes_bit_for_bit() {
    let workshop = Workshop::new();
    workshop.train(&["run.dir=whole"]).succeeds();
    let steps = || {
        let rows = fs::read_to_string(workshop.path("stopped/metrics.jsonl"));
        rows.map_or(0, |rows| rows.lines().count())
    };
    let mut stops = 0;
    for attempt in 0.. {
        let before = steps();
        let mut child = workshop.start(&["run.dir=stopped"]);
        wait_for(|| steps() > before || child.try_wait().unwrap().is_some());
        send("TERM", child.id());
        match child.wait().unwrap().code() {
            Some(75) => stops += 1,
            code => {
                assert_eq!(code, Some(0));
                break;
            }
        }
        assert!(attempt < 20);
    }
    assert!(stops > 0, "the run was never stopped on its way");
    assert_eq!(workshop.checkpoint("stopped", 8), workshop.checkpoint("whole", 8));
}

/// The same after SIGKILL, which gives no chance to save: the run continues from its last
/// checkpoint and the step that was lost is trained again.
#[test]
fn a_killed_run_resumes_bit_for_bit() {
    let workshop = Workshop::new();
    workshop.train(&["run.dir=whole"]).succeeds();
    let mut child = workshop.start(&["run.dir=killed"]);
    wait_for(|| workshop.path("killed/checkpoints/step-2").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    workshop.train(&["run.dir=killed"]).succeeds();
    assert_eq!(workshop.checkpoint("killed", 8), workshop.checkpoint("whole", 8));
    let steps: Vec<_> =
        metrics(&workshop, "killed").iter().map(|row| row["step"].clone()).collect();
    assert_eq!(steps, (1..=8).map(Value::from).collect::<Vec<_>>(), "each step once");
}

/// Neither the number of workers nor the size of an accumulated batch changes what is seen.
#[test]
fn the_number_of_workers_changes_nothing() {
    let workshop = Workshop::new();
    workshop.train(&["run.dir=two"]).succeeds();
    workshop.train(&["run.dir=five", "data.workers=5", "data.prefetch_batches=1"]).succeeds();
    assert_eq!(workshop.checkpoint("two", 8), workshop.checkpoint("five", 8));
}

fn flip_a_byte(path: &std::path::Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// A damaged checkpoint is found by its checksum. `auto` goes back to the one before it and ends
/// where it would have ended; asked for by name it is an error.
#[test]
fn a_flipped_byte_is_found() {
    let workshop = Workshop::new();
    workshop.train(&["run.dir=whole"]).succeeds();
    workshop.train(&[]).succeeds();
    flip_a_byte(&workshop.path("run/checkpoints/step-8/one.optimizer.safetensors"));
    let mut by_name = workshop.training(&[]);
    by_name.args(["--resume", "run/checkpoints/step-8"]);
    Finished::of(by_name.output().unwrap())
        .fails(1, &["step-8/one.optimizer.safetensors", "checksum"]);
    let resumed = workshop.train(&[]).succeeds();
    assert!(resumed.stderr.contains("step-8/one.optimizer.safetensors"), "{}", resumed.stderr);
    assert!(resumed.stderr.contains("step-6"), "{}", resumed.stderr);
    assert_eq!(workshop.checkpoint("run", 8), workshop.checkpoint("whole", 8));
}

/// `--resume never` starts again and loses nothing of what was there.
#[test]
fn never_moves_the_earlier_run_aside() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    let earlier = workshop.checkpoint("run", 8);
    let mut again = workshop.training(&["seed=5"]);
    again.args(["--resume", "never"]);
    Finished::of(again.output().unwrap()).succeeds();
    assert_eq!(workshop.checkpoint("run.old-1", 8), earlier);
    assert_ne!(workshop.checkpoint("run", 8), earlier, "another seed gives another run");
}

/// Going back to an earlier checkpoint keeps the later ones under other names, and what is then
/// trained is what counts.
#[test]
fn going_back_keeps_the_later_checkpoints() {
    let workshop = Workshop::new();
    workshop.train(&["checkpoint.keep=9"]).succeeds();
    let before = workshop.checkpoint("run", 8);
    let mut back = workshop.training(&["checkpoint.keep=9", "optimizer.learning_rate=1e-3"]);
    back.args(["--resume", "run/checkpoints/step-4"]);
    Finished::of(back.output().unwrap()).succeeds();
    assert_eq!(workshop.checkpoint("run", 8).len(), before.len());
    assert_ne!(workshop.checkpoint("run", 8), before, "another learning rate");
    let set_aside = workshop.path("run/checkpoints/step-8.old-1/one.safetensors");
    let kept = before.iter().find(|(name, _)| name == "one.safetensors").unwrap();
    assert_eq!(fs::read(set_aside).unwrap(), kept.1);
}

/// Going on with another data set is said, and with another seed refused unless that is accepted.
#[test]
fn another_stream_is_warned_about() {
    let workshop = Workshop::new();
    workshop.train(&["schedule.epochs=2"]).succeeds();
    let other = ["schedule.epochs=2", "seed=5", "data.shards=[\"shards/0.tar\"]"];
    workshop.train(&other).fails(2, &["`seed` was 0 up to step 4, and is 5", "--accept-changes"]);
    let mut command = workshop.training(&other);
    let resumed = Finished::of(command.arg("--accept-changes").output().unwrap()).succeeds();
    for part in ["`seed` was 0 up to step 4, and is 5", "`data.shards` was 20 samples in 2 shards"]
    {
        assert!(resumed.stderr.contains(part), "`{part}` is not in: {}", resumed.stderr);
    }
}

/// Two processes never write to one run.
#[test]
fn one_process_a_run() {
    let workshop = Workshop::new();
    let mut first = workshop.start(&["schedule.epochs=1000"]);
    wait_for(|| workshop.path("run/metrics.jsonl").exists());
    workshop.train(&[]).fails(1, &["another process is training in run"]);
    first.kill().unwrap();
    first.wait().unwrap();
}

/// A full disk while saving (a file size limit stands in for it) ends the run, and the checkpoint
/// before stays the newest whole one.
#[test]
fn a_full_disk_leaves_the_previous_checkpoint() {
    let workshop = Workshop::new();
    workshop.train(&["schedule.epochs=2"]).succeeds();
    let before = workshop.checkpoint("run", 4);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" --config config.toml"])
        .arg(env!("CARGO_BIN_EXE_distill"))
        .current_dir(workshop.path(""));
    Finished::of(limited.output().unwrap()).fails(
        1,
        &["cannot save the checkpoint", "step-6", "the one of step 4 stays", "free space"],
    );
    assert_eq!(workshop.checkpoints("run"), ["step-2", "step-4"], "no leftovers");
    assert_eq!(workshop.checkpoint("run", 4), before);
    workshop.train(&[]).succeeds();
}

/// A loss that is no number stops the run, names student and step, and is never saved.
#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let workshop = Workshop::new();
    workshop
        .train(&["optimizer.learning_rate=1e30", "checkpoint.every=1", "checkpoint.keep=100"])
        .fails(1, &[" of `", "at step ", "NaN", "optimizer.learning_rate"]);
    let kept = workshop.checkpoints("run");
    assert!(!kept.is_empty());
    let saved = kept.len() as u64;
    let rows = metrics(&workshop, "run");
    assert_eq!(rows.len() as u64, saved, "every finished step was saved, the last one not reached");
    let losses = rows.iter().flat_map(|row| row["students"].as_array().unwrap());
    assert!(losses.clone().count() > 0);
    assert!(losses.into_iter().all(|student| student["loss"].is_f64()));
}

/// Where the step after it has begun before its loss is read, it is told of all the same. Neither is written
/// down, the state before both is saved, and whoever goes on from there meets the same.
#[test]
fn a_loss_that_is_no_number_is_told_a_step_late() {
    let workshop = Workshop::new();
    let failed = workshop.train(&["optimizer.learning_rate=1e30", "checkpoint.every=1000"]);
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    let step = metrics(&workshop, "run").len() + 1;
    assert!((2..8).contains(&step), "{step}");
    assert!(failed.stderr.contains(&format!("is NaN at step {step}")), "{}", failed.stderr);
    let saved = format!("step-{}", step - 1);
    assert_eq!(workshop.checkpoints("run"), std::slice::from_ref(&saved));
    assert!(failed.stderr.contains(&format!("run/checkpoints/{saved}")), "{}", failed.stderr);
    // Every step saved, and so never two under way, the state is the same.
    let each = [
        "optimizer.learning_rate=1e30",
        "checkpoint.every=1",
        "checkpoint.keep=100",
        "run.dir=each",
    ];
    assert_eq!(workshop.train(&each).code, Some(1));
    assert_eq!(
        workshop.checkpoint("run", step as u64 - 1),
        workshop.checkpoint("each", step as u64 - 1)
    );
    let again = workshop.train(&["optimizer.learning_rate=1e30", "checkpoint.every=1000"]);
    assert!(again.stderr.contains(&format!("is NaN at step {step}")), "{}", again.stderr);
}

/// Out of memory says what to lower. The teacher's hidden layer wants 340 GB at once.
#[test]
fn out_of_memory_names_the_knobs() {
    let workshop = Workshop::new();
    workshop
        .train(&[
            "data.batch_size=16384",
            "data.global_batch_size=16384",
            "teacher.model={dim=16, depth=1, heads=1, patch_size=8, mlp_ratio=65536}",
        ])
        .fails(1, &["out of memory", "data.batch_size (now 16384", "bf16"]);
}

/// Clipping changes the weights, and its norm in the metrics is the one before clipping.
#[test]
fn gradients_are_clipped() {
    let workshop = Workshop::new();
    workshop.train(&["run.dir=free"]).succeeds();
    workshop.train(&["run.dir=clipped", "optimizer.clip_grad_norm=1e-3"]).succeeds();
    let norm = |run: &str| metrics(&workshop, run)[0]["students"][0]["grad_norm"].as_f64().unwrap();
    assert_eq!(norm("free"), norm("clipped"));
    assert!(norm("free") > 1e-3);
    assert_ne!(workshop.checkpoint("free", 8), workshop.checkpoint("clipped", 8));
}

/// bf16 trains, on float32 master weights.
#[test]
fn bf16_trains() {
    let workshop = Workshop::new();
    workshop.train(&["run.precision=bf16"]).succeeds();
    let rows = metrics(&workshop, "run");
    let loss = |row: &Value| row["students"][0]["loss"].as_f64().unwrap();
    assert!(loss(&rows[7]) < loss(&rows[0]) * 0.95);
    let file = workshop.path("run/checkpoints/step-8/one.safetensors");
    let tensors = tch::Tensor::read_safetensors(file).unwrap();
    assert!(tensors.iter().all(|(_, tensor)| tensor.kind() == tch::Kind::Float));
}

/// What is wrong with the input is said before the first step, with the right exit code.
#[test]
fn bad_input_gets_one_clear_error() {
    let workshop = Workshop::new();
    fs::write(workshop.path("notes.txt"), "nothing").unwrap();
    workshop.shard("empty.tar", &[("notes.txt".into(), b"no image".to_vec())]);
    let whole = fs::read(workshop.path("shards/0.tar")).unwrap();
    fs::write(workshop.path("cut.tar"), &whole[..whole.len() / 2 + 100]).unwrap();
    let teacher = crate::support::golden::golden("infer_native");
    let teacher = format!("teacher.weights={}", teacher.display());
    for (overrides, code, parts) in [
        (&["data.batch_sise=3"][..], 2, &["config.toml", "data.batch_sise", "`batch_size`"][..]),
        (&["data.shards=[\"none/*.tar\"]"], 2, &["data.shards", "none/*.tar"]),
        (&["data.shards=[\"empty.tar\"]"], 1, &["empty.tar"]),
        (&["data.shards=[\"cut.tar\"]"], 1, &["cut.tar"]),
        (&["run.device=cuda"], 2, &["run.device", "no GPU"]),
        (&["teacher.weights=nowhere.pth"], 1, &["nowhere.pth"]),
        (&["teacher.weights=notes.txt"], 1, &["notes.txt"]),
        (&[&teacher], 1, &["teacher.weights", "have width 64, the config says 48"]),
        (&["data.input_size=33"], 2, &["data.input_size", "33", "8"]),
        (&["students.0.mask_grid=3"], 2, &["students.0.mask_grid", "3", "4×4"]),
    ] {
        if overrides == ["run.device=cuda"] && tch::Cuda::is_available() {
            continue;
        }
        workshop.train(overrides).fails(code, parts);
    }
}

/// An image that does not decode is replaced, counted and named; too many of them stop the run.
#[test]
fn broken_images_are_counted() {
    let workshop = Workshop::new();
    let mut members: Vec<_> =
        (0..19).map(|i| (format!("{i:02}.jpg"), crate::support::workshop::image(i))).collect();
    members.push(("99.jpg".into(), b"not an image".to_vec()));
    workshop.shard("broken.tar", &members);
    let shards = "data.shards=[\"broken.tar\"]";
    let done = workshop.train(&[shards, "data.max_failed_share=0.5"]).succeeds();
    assert!(
        done.stderr.contains("broken.tar") && done.stderr.contains("99.jpg"),
        "{}",
        done.stderr
    );
    let rows = metrics(&workshop, "run");
    assert!(rows.last().unwrap()["failed_pictures"].as_u64().unwrap() > 0);

    let junk: Vec<_> = (0..20).map(|i| (format!("{i}.jpg"), b"junk".to_vec())).collect();
    workshop.shard("junk.tar", &junk);
    workshop
        .train(&["run.dir=junk", "data.shards=[\"junk.tar\"]"])
        .fails(1, &["junk.tar", "data.max_failed_share"]);
}

/// `--dry-run` counts and checks without training.
#[test]
fn a_dry_run_trains_nothing() {
    let workshop = Workshop::new();
    let mut command = workshop.training(&[]);
    let done = Finished::of(command.arg("--dry-run").output().unwrap()).succeeds();
    for part in ["teacher", "student one", "20 samples", "8 of 4 images"] {
        assert!(done.stdout.contains(part), "`{part}` is not in: {}", done.stdout);
    }
    assert!(!workshop.path("run").exists());
}

/// Weights that are no numbers are found before training, in a dry run too: a teacher of them would say so
/// after minutes of loading, if at all.
#[test]
fn weights_that_are_no_numbers_are_refused() {
    let workshop = Workshop::new();
    workshop.train(&[]).succeeds();
    let file = workshop.path("run/exports/one/model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.len() - 4;
    bytes[end..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    let set = ["run.dir=second", "students.0.weights=run/exports/one"];
    for more in [&["--dry-run"][..], &[]] {
        let done = Finished::of(workshop.training(&set).args(more).output().unwrap());
        done.fails(1, &["students.0.weights", "1 values of `", "are not finite numbers"]);
    }
}

/// Help and exit codes are for newcomers; wrong usage is 2.
#[test]
fn help_and_usage() {
    let workshop = Workshop::new();
    let help = Finished::of(workshop.command(&["--help"]).output().unwrap()).succeeds();
    for part in ["--config", "--set", "--resume", "export", "data", "Exit codes", "Examples"] {
        assert!(help.stdout.contains(part), "`{part}` is not in: {}", help.stdout);
    }
    for arguments in [&["--confg", "x"][..], &["export"], &[], &["--log-level", "debug"]] {
        let output = workshop.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

/// The program finds libtorch by itself, and its CUDA half where there is one: without that no
/// GPU is ever seen.
#[test]
fn libtorch_is_found_with_its_cuda_half() {
    let workshop = Workshop::new();
    let mut program = workshop.command(&[]);
    program.env("LD_TRACE_LOADED_OBJECTS", "1").env_remove("LD_LIBRARY_PATH");
    let libraries = String::from_utf8(program.output().unwrap().stdout).unwrap();
    assert!(!libraries.contains("not found"), "{libraries}");
    let cpu = libraries.lines().find(|line| line.contains("libtorch_cpu.so")).unwrap();
    let cpu = cpu.split("=> ").nth(1).unwrap().split(" (").next().unwrap();
    let cuda = std::path::Path::new(cpu).with_file_name("libtorch_cuda.so");
    assert_eq!(libraries.contains("libtorch_cuda.so"), cuda.exists(), "{libraries}");
}

/// Elsewhere than on a terminal, progress is plain lines with all that one wants to know.
#[test]
fn progress_is_plain_lines_without_a_terminal() {
    let workshop = Workshop::new();
    let done = workshop.train(&[]).succeeds();
    let line = done.stderr.lines().find(|line| line.contains("training step=8"));
    let line = line.unwrap_or_else(|| panic!("no line for step 8 in: {}", done.stderr));
    for part in ["one ", "two ", "images_per_second", "data_wait", "left"] {
        assert!(line.contains(part), "`{part}` is not in: {line}");
    }
    assert!(!done.stderr.contains('\x1b'), "no control sequences");
}

fn wait_for(mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(120), "waited too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}
