//! `distill bench step`: what it says of a step is what a step is.

use serde_json::Value;

use crate::support::workshop::{Finished, Workshop};

fn bench(workshop: &Workshop, before: &[&str], arguments: &[&str]) -> Finished {
    let bench = ["bench", "step", "--config", "config.toml", "--steps=9"];
    let all = [before, &bench, arguments].concat();
    // One thread: the tests run beside one another.
    Finished::of(workshop.command(&all).env("OMP_NUM_THREADS", "1").output().unwrap())
}

fn json(finished: &Finished) -> Value {
    // A launcher says who speaks.
    let line = finished.stdout.trim_start_matches("[rank 0] ");
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {}", finished.stdout))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

/// The parts of a step make up the step, the rate is that of the time, and the work that of the
/// models. Shards are not needed, nothing is written.
#[test]
fn the_parts_make_up_the_step() {
    let workshop = Workshop::new();
    std::fs::remove_dir_all(workshop.path("shards")).unwrap();
    let report = json(&bench(&workshop, &[], &["--json", "--device=cpu"]).succeeds());
    assert!(!workshop.path("run").exists());
    let ms = |key: &str| number(&report[key]);
    let students = report["students"].as_array().unwrap();
    assert_eq!(students.iter().map(|s| &s["name"]).collect::<Vec<_>>(), ["one", "two"]);
    let of_students: f64 =
        students.iter().map(|s| number(&s["forward_ms"]) + number(&s["backward_ms"])).sum();
    let parts = ms("teacher_ms") + of_students + ms("optimizer_ms") + ms("data_wait_ms");
    // Medians of nine steps each, beside other tests.
    assert!((0.3..2.0).contains(&(parts / ms("step_ms"))), "{report}");
    assert_eq!(ms("communication_ms").round(), 0.0);
    assert!((ms("images_per_s") * ms("seconds") - 18.0).abs() < 1e-6, "9 steps of 2: {report}");
    // Written out for this teacher of width 48 with 8 + 16 tokens, and these students.
    let encoder = |d: f64, depth: f64, patches: f64| {
        let tokens = 8.0 + patches;
        depth * (24.0 * tokens * d * d + 4.0 * tokens * tokens * d) + 384.0 * patches * d
    };
    let projector = |d: f64, tokens: f64| 2.0 * tokens * (d * 48.0 + 48.0 * 48.0);
    let expected = encoder(48.0, 2.0, 16.0)
        + 3.0 * (encoder(32.0, 2.0, 8.0) + projector(32.0, 16.0))
        + 3.0 * (encoder(16.0, 1.0, 16.0) + projector(16.0, 24.0));
    assert_eq!(ms("flops_per_image"), expected);
    assert_eq!((&report["peak"], &report["mfu"]), (&Value::Null, &Value::Null));
    assert!(ms("peak_memory_bytes") > 1e7);
}

/// The named parts of a trace, in order, where it has operators of libtorch and nothing runs backwards.
fn parts_of(file: &std::path::Path) -> Vec<String> {
    let trace: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |category: &str| {
        let mut found: Vec<_> = events.iter().filter(|one| one["cat"] == category).collect();
        found.sort_by(|a, b| number(&a["ts"]).total_cmp(&number(&b["ts"])));
        found
    };
    let parts = of("user_annotation");
    for pair in parts.windows(2) {
        let end = number(&pair[0]["ts"]) + number(&pair[0]["dur"]);
        assert!(end <= number(&pair[1]["ts"]) + 1.0, "parts overlap: {pair:?}");
    }
    let products = of("cpu_op").into_iter().filter(|one| one["name"] == "aten::layer_norm");
    assert!(products.count() > 0, "no operators in the trace");
    parts.iter().map(|part| part["name"].as_str().unwrap().to_string()).collect()
}

const PARTS: [&str; 8] = [
    "data",
    "targets",
    "forward one",
    "backward one",
    "forward two",
    "backward two",
    "exchange",
    "update",
];

/// `--profile` writes traces that have each part of each step, of the bench and of the steps of a run that
/// were asked for: as many batches as the run accumulates; also where the run ends before.
#[test]
fn traces_have_the_parts_of_the_steps_that_were_asked_for() {
    let workshop = Workshop::new();
    bench(&workshop, &[], &["--device=cpu", "--profile=trace.json"]).succeeds();
    assert_eq!(parts_of(&workshop.path("trace.json")), [PARTS, PARTS].concat());

    let command = |steps: &str| {
        let mut command = workshop.training(&["data.batch_size=4"]);
        Finished::of(command.args(["--profile", steps]).output().unwrap())
    };
    command("7..100").succeeds();
    let file = workshop.path("run/profile/steps-7-8-rank-0.json");
    let steps: Vec<_> = parts_of(&file).into_iter().filter(|part| part == "update").collect();
    assert_eq!(steps.len(), 2);
    let again = command("7..8").succeeds();
    assert!(again.stderr.contains("step 8 is done already"), "{}", again.stderr);
    for wrong in ["0..3", "5..4", "5", "a..b"] {
        command(wrong).fails(2, &["a first and a last step"]);
    }
}

/// What is written of a step's work is what the bench counts, over the time of the step.
#[test]
fn metrics_tell_the_rate_of_operations() {
    let workshop = Workshop::new();
    let flops = number(&json(&bench(&workshop, &[], &["--json"]).succeeds())["flops_per_image"]);
    workshop.train(&[]).succeeds();
    let text = std::fs::read_to_string(workshop.path("run/metrics.jsonl")).unwrap();
    for line in text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let of_step = number(&line["flops_per_second"]) * number(&line["step_seconds"]);
        assert!((of_step / (4.0 * flops) - 1.0).abs() < 1e-9, "{line}");
        assert!(line.get("mfu").is_none() || crate::support::device::device_name() == "cuda");
    }
}

/// A peak makes an MFU of the same figures; the table has what the JSON has.
#[test]
fn the_peak_is_named() {
    let workshop = Workshop::new();
    let report = json(&bench(&workshop, &[], &["--json", "--peak=H100"]).succeeds());
    let peak = number(&report["peak"]["flops_per_s"]);
    assert_eq!((&report["peak"]["name"], peak), (&"H100".into(), 989e12));
    let flops = number(&report["images_per_s"]) * number(&report["flops_per_image"]);
    assert!((number(&report["mfu"]) / (flops / peak) - 1.0).abs() < 1e-12);
    let table = bench(&workshop, &[], &["--peak=H100"]).succeeds().stdout;
    for part in ["teacher", "one, forward", "two, backward", "MFU", "of 989 (H100)", "peak memory"]
    {
        assert!(table.contains(part), "{part}: {table}");
    }
    bench(&workshop, &[], &["--peak=abacus"]).fails(2, &["abacus"]);
}

/// Under a launcher all processes take part in each step, and one tells.
#[test]
fn several_processes_are_measured_together() {
    let workshop = Workshop::new();
    let launch = ["launch", "--nproc-per-node=2", "--"];
    let report = json(&bench(&workshop, &launch, &["--json"]).succeeds());
    assert_eq!((&report["processes"], &report["batch_size"]), (&2.into(), &2.into()));
    let images = number(&report["images_per_s"]) * number(&report["seconds"]);
    assert!((images - 36.0).abs() < 1e-6, "9 steps of 2 × 2: {report}");
    assert!(number(&report["communication_ms"]) > 0.0);
}

/// An autoencoder's steps are measured as well, and their work is that of its two transformers.
#[test]
fn steps_of_pretraining_are_measured() {
    let workshop = Workshop::pretraining();
    let arguments = ["bench", "step", "--config", "pretrain.toml", "--steps=3", "--json"];
    let mut command = workshop.command(&arguments);
    let report =
        json(&Finished::of(command.env("OMP_NUM_THREADS", "1").output().unwrap()).succeeds());
    let students = report["students"].as_array().unwrap();
    assert_eq!(students.iter().map(|s| &s["name"]).collect::<Vec<_>>(), ["encoder"]);
    assert!(number(&students[0]["backward_ms"]) > 0.0);
    // 8 class tokens and 4 of 16 patches in the encoder of width 32, all in the decoder of width 16.
    let blocks = |d: f64, tokens: f64| 2.0 * (24.0 * tokens * d * d + 4.0 * tokens * tokens * d);
    let encoder = blocks(32.0, 12.0) + 384.0 * 4.0 * 32.0;
    let decoder = blocks(16.0, 24.0) + 2.0 * 12.0 * 32.0 * 16.0 + 384.0 * 16.0 * 16.0;
    assert_eq!(number(&report["flops_per_image"]), 3.0 * (encoder + decoder));
}
