//! The scripts that measure steps and check GPUs, as far as a CPU can tell: their figures agree with
//! one another, and what goes wrong is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use distill::tasks;
use distill::tasks::distill::DistillConfig;
use serde_json::Value;

use crate::support::golden::cases;
use crate::support::python::{python, run};
use crate::support::workshop::{Finished, Workshop};

/// A script of this repository on the CPU, with the tests' Python. One thread a program: the tests
/// run beside one another.
fn script(name: &str, program: &Path) -> Command {
    let python = std::env::var_os("DISTILL_TEST_PYTHON")
        .expect("DISTILL_TEST_PYTHON names a Python with torch; scripts/test sets it");
    let mut command = Command::new(root(name));
    command.args(["--device", "cpu", "--program"]).arg(program).arg("--python").arg(python);
    command.env("OMP_NUM_THREADS", "1");
    command
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// `scripts/bench/step` on the quickstart with small batches, its JSON in `result.json`.
fn step_bench(workshop: &Workshop, program: &Path, arguments: &[&str]) -> Command {
    let mut command = script("scripts/bench/step", program);
    command.arg("--config").arg(root("scripts/bench/step_cpu.toml"));
    command
        .args(["--set", "data.batch_size=8", "--patience=0", "--json"])
        .arg(workshop.path("result.json"));
    command.args(arguments);
    command
}

fn result(workshop: &Workshop) -> Value {
    serde_json::from_slice(&fs::read(workshop.path("result.json")).unwrap()).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

/// An executable that stands in for distill.
fn stand_in(workshop: &Workshop, body: &str) -> PathBuf {
    let path = workshop.path("stand-in");
    fs::write(&path, format!("#!/bin/bash\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Prints figures of the batch that it is told, if there are at most 50 images in it.
const HOLDS_FIFTY: &str = r#"
batch=8
for argument; do case $argument in data.batch_size=*) batch=${argument#*=} ;; esac; done
[ "$batch" -le 50 ] || { echo "error: out of memory: lower data.batch_size" >&2; exit 1; }
echo "{\"images_per_s\": $batch, \"peak_memory_bytes\": $((batch * 1000000000)), \"step_ms\": 1000,
\"teacher_ms\": 500, \"optimizer_ms\": 1,
\"students\": [{\"name\": \"one\", \"forward_ms\": 1, \"backward_ms\": 2, \"loss\": 0.5}], \"flops_per_image\": 1e9, \"peak\": null,
\"precision\": \"fp32\", \"device_name\": \"none\"}" | tr -d '\n'
"#;

/// Ours and the peer do the same work: FLOPs as counted apart, losses from other draws; and the
/// ratio that is shown is that of the figures that are shown.
#[test]
fn a_step_is_compared_with_pytorchs() {
    let workshop = Workshop::new();
    let arguments = ["--steps=3", "--rounds=2", "--variants=eager"];
    let program = Path::new(env!("CARGO_BIN_EXE_distill"));
    let done =
        Finished::of(step_bench(&workshop, program, &arguments).output().unwrap()).succeeds();
    let result = result(&workshop);
    let (ours, eager) = (&result["contenders"]["distill"], &result["contenders"]["PyTorch, eager"]);
    for figures in [ours, eager] {
        assert_eq!(figures["rounds"].as_array().unwrap().len(), 2);
        for key in ["images_per_s", "step_ms", "teacher_ms", "optimizer_ms", "peak_memory_bytes"] {
            assert!(number(&figures[key]) > 0.0, "{key}: {figures}");
        }
        assert_eq!((&figures["device"], &figures["precision"]), (&"cpu".into(), &"fp32".into()));
        let step = number(&figures["step_ms"]);
        let rate = 8e3 / number(&figures["images_per_s"]);
        assert!((0.4..2.5).contains(&(rate / step)), "{rate} ms by the rate, {step} ms a step");
    }
    assert_eq!(ours["flops_per_image"], eager["flops_per_image"]);
    for (student, peer) in
        ours["students"].as_array().unwrap().iter().zip(eager["students"].as_array().unwrap())
    {
        assert_eq!(student["name"], peer["name"]);
        let (ours, peers) = (number(&student["loss"]), number(&peer["loss"]));
        assert!((ours / peers - 1.0).abs() < 0.05, "losses {ours} and {peers}");
    }
    let skipping = &result["contenders"]["distill, options"];
    assert!(number(&skipping["images_per_s"]) > 0.0, "{skipping}");
    let ratio = &result["ratios"][0];
    let expected = number(&ours["images_per_s"]) / number(&eager["images_per_s"]);
    assert!((number(&ratio["ratio"]) / expected - 1.0).abs() < 1e-9, "{ratio}");
    let line = format!(
        "distill / PyTorch, eager: {expected:.2} ×, goal 1.1 ×: {}",
        if expected >= 1.1 { "met" } else { "not met" }
    );
    assert!(done.stdout.contains(&line), "{line}: {}", done.stdout);
}

/// What is compared with is the recipe: the peer replays golden steps, and its own draws of masks and
/// drop path have the right distribution.
#[test]
fn the_peer_is_the_recipe() {
    let cases = cases(&["case.json", "batch.safetensors", "teacher.safetensors"]);
    let of_whole_steps = |folder: &&PathBuf| {
        let case = fs::read(folder.join("case.json")).unwrap();
        serde_json::from_slice::<Value>(&case).unwrap()["accum_iter"] == 1
    };
    let replayed: Vec<_> = cases.iter().filter(of_whole_steps).collect();
    assert!(!replayed.is_empty());
    for folder in replayed {
        let mut replay = python("step_peer_golden.py");
        replay.arg("scripts/bench").arg(folder).env("OMP_NUM_THREADS", "1");
        let said = run(replay.current_dir(root("")).env("PYTHONDONTWRITEBYTECODE", "1"));
        assert!(said.contains("losses within"), "{said}");
    }
}

/// The two count a step's work alike also where it is large, and where students see everything.
#[test]
fn the_recipes_work_is_what_the_issue_says() {
    let count = |config: &str| {
        let python = std::env::var_os("DISTILL_TEST_PYTHON").expect("scripts/test sets it");
        let mut command = Command::new(python);
        let script = "import sys; sys.path.insert(0, sys.argv[1]); \
                      import step_config, step_recipe; \
                      print(step_recipe.flops_per_image(step_config.load(sys.argv[2], [])))";
        command.args(["-B", "-c", script]).arg(root("scripts/bench")).arg(root(config));
        let done = Finished::of(command.output().unwrap()).succeeds();
        done.stdout.trim().parse::<f64>().unwrap()
    };
    let whole = count("configs/5b_to_1b_h.toml");
    assert!((whole - 4.58e12).abs() < 0.01e12, "{whole:.4e}");
    for config in
        ["configs/5b_to_1b_h.toml", "configs/5b_to_l_b.toml", "scripts/bench/step_cpu.toml"]
    {
        let ours = tasks::load_as::<DistillConfig>(&root(config), &[]).unwrap();
        let ours = distill::tasks::distill::flops_per_image(&ours);
        assert_eq!(ours, count(config), "{config}");
    }
}

/// Doubled until it does not fit, halved until there is nothing between.
#[test]
fn the_largest_batch_is_found() {
    let workshop = Workshop::new();
    let program = stand_in(&workshop, HOLDS_FIFTY);
    let largest = |arguments: &[&str]| {
        let arguments = [&["--largest-batch"], arguments].concat();
        let done = step_bench(&workshop, &program, &arguments).output().unwrap();
        Finished::of(done).succeeds().stdout
    };
    let found = largest(&["--grain=4"]);
    assert!(found.contains("distill: 48 (48.00 GB"), "{found}");
    assert!(found.contains("52 does not"), "{found}");
    let tried = result(&workshop)["contenders"]["distill"]["tried"].clone();
    assert_eq!(tried.as_object().unwrap().len(), 7, "8, 16, 32, 64, 48, 56, 52: {tried}");
    assert!(largest(&["--most=32"]).contains("distill: 32 (32.00 GB"));
    assert!(largest(&["--set=data.batch_size=500"]).contains("distill: 48 (48.00 GB"));
}

/// A batch that does not fit is measured smaller, and the table says so; a contender that fails
/// leaves the others their turns.
#[test]
fn what_does_not_fit_or_fails_is_told() {
    let workshop = Workshop::new();
    let program = stand_in(&workshop, HOLDS_FIFTY);
    let arguments = ["--variants=", "--set=data.batch_size=64", "--rounds=2", "--steps=3"];
    let done = Finished::of(step_bench(&workshop, &program, &arguments).output().unwrap());
    let done = done.succeeds();
    assert!(done.stderr.contains("distill: out of memory at batch 64"), "{}", done.stderr);
    let missed = done.stderr.matches("distill: out of memory").count();
    assert_eq!(missed, 1, "the second round does not try again: {}", done.stderr);
    assert_eq!(result(&workshop)["contenders"]["distill"]["batch_size"], 48);
    assert!(done.stdout.contains("distill / PyTorch, eager: goal 1.1 ×: not measured"));

    let program = stand_in(&workshop, "echo 'error: the device is on fire' >&2; exit 1");
    let arguments = ["--variants=eager", "--steps=1", "--warmup=1"];
    let done = Finished::of(step_bench(&workshop, &program, &arguments).output().unwrap());
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(done.stdout.contains("the device is on fire"), "{}", done.stdout);
    let eager = &result(&workshop)["contenders"]["PyTorch, eager"];
    assert!(number(&eager["images_per_s"]) > 0.0, "{eager}");
}

/// Every part of the check for a machine with a GPU works, and the table has what they found.
#[test]
fn the_gpu_check_runs_on_a_cpu() {
    let workshop = Workshop::new();
    let mut check = script("scripts/gpu_check", Path::new(env!("CARGO_BIN_EXE_distill")));
    check.arg("--shards").arg(workshop.path("shards/*.tar"));
    check.arg("--tests").arg(std::env::current_exe().unwrap());
    let done = Finished::of(check.output().unwrap()).succeeds();
    let (_, table) = done.stdout.split_once("== all parts on cpu\n").unwrap();
    for part in
        ["tests", "team", "precision", "pretrain", "eval", "step", "levers", "largest-batch"]
    {
        let line = format!("{part:<14} passed ");
        assert!(table.contains(&line), "{part}: {table}");
    }
    for run in ["all-reduce", "bf16", "sharded", "bf16-compute", "stopped"] {
        assert!(table.contains(&format!("    {run}: losses differ by ")), "{run}: {table}");
    }
    for finding in [
        "test result: ok. ",
        "% apart",
        "    pre-training: loss ",
        "    later tests ",
        "distill / PyTorch, eager: ",
        "    largest batch that fits",
    ] {
        assert!(table.contains(finding), "{finding}: {table}");
    }
}

/// Each switch has its row, with the settings of every student.
#[test]
fn every_lever_has_a_row() {
    let workshop = Workshop::new();
    let told = workshop.path("told");
    let program = stand_in(&workshop, &format!("echo \"$@\" >>{}\n{HOLDS_FIFTY}", told.display()));
    let arguments = ["--levers", "--rounds=1", "--set=run.precision=bf16"];
    let done = Finished::of(step_bench(&workshop, &program, &arguments).output().unwrap());
    let done = done.succeeds();
    for name in ["none", "bf16 residual", "skipped paths", "half recomputed", "all options"] {
        let row = done.stdout.lines().find(|line| line.starts_with(name));
        assert!(row.is_some_and(|row| row.contains("1000.0 ms")), "{name}: {}", done.stdout);
    }
    let told = fs::read_to_string(told).unwrap();
    let settings: Vec<_> = told.lines().collect();
    assert!(!settings[0].contains("drop_path_mode"), "{told}");
    assert!(settings[3].contains("students.0.recompute_blocks=2"), "half of 4: {told}");
    assert!(settings[3].contains("students.1.recompute_blocks=1"), "half of 3: {told}");
    for setting in ["teacher.residual=bf16", "students.1.drop_path_mode=skip"] {
        assert!(settings[4].contains(setting), "{setting}: {told}");
    }
    assert!(!settings[4].contains("recompute_blocks"), "it is not for speed: {told}");
}

/// One part that fails does not keep the others from running, and the exit code says it.
#[test]
fn a_failing_part_of_the_gpu_check_is_told() {
    let workshop = Workshop::new();
    let program = stand_in(&workshop, HOLDS_FIFTY);
    let mut check = script("scripts/gpu_check", &program);
    check.args(["--only", "tests,largest-batch", "--tests", "/bin/false"]);
    let done = Finished::of(check.output().unwrap());
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(done.stdout.contains("\ntests          FAILED "), "{}", done.stdout);
    assert!(done.stdout.contains("\nlargest-batch  passed "), "{}", done.stdout);

    let mut check = script("scripts/gpu_check", &program);
    let done = Finished::of(check.args(["--only", "nonsense"]).output().unwrap());
    done.fails(2, &["no part nonsense", "precision"]);
}
