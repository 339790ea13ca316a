//! What students are compared with, through runs: several blocks, projectors, forms of targets, a teacher that sees
//! other sizes. The numbers are golden cases (`golden/terms.rs`).

use std::fs;

use distill::tasks::distill::DistillConfig;
use distill::tasks::load_as;
use serde_json::Value;
use tch::Tensor;

use crate::support::processes::wait_until;
use crate::support::ranks;
use crate::support::workshop::{Finished, Workshop, labelled};

/// A comparison of two blocks beside the output's.
const EARLY: &str = "loss.terms=[{ name = \"early\", layers = [0, -1], teacher_layers = [0, -2], class = \"none\", \
                     patch = \"smooth_l1\", projector = \"linear\", weight = 0.5 }]";

const STANDARDISED: [&str; 2] =
    ["teacher.targets=\"standardised\"", "teacher.statistics_images=20"];

/// The overrides, behind those of a comparison of several blocks with standardised targets.
fn several<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&[EARLY, "loss.gram=0.2"], &STANDARDISED[..], more].concat()
}

/// The students of every line of a run's metrics.
fn students(workshop: &Workshop, run: &str) -> Vec<Value> {
    let lines = ranks::metrics(workshop, run);
    lines.iter().flat_map(|line| line["students"].as_array().unwrap().clone()).collect()
}

/// A student's tensors in a checkpoint.
fn tensors(workshop: &Workshop, run: &str, step: u64, student: &str) -> Vec<(String, Tensor)> {
    let file = workshop.path(run).join(format!("checkpoints/step-{step}/{student}.safetensors"));
    let mut found = Tensor::read_safetensors(&file).unwrap();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found
}

/// With masks, drop path, recomputed blocks and accumulation: values are in metrics, in the total, in TensorBoard and
/// on the page, projectors and statistics in checkpoints, and after a kill the run goes on bit for bit.
#[test]
fn a_run_of_several_comparisons_shows_them_and_resumes_bit_for_bit() {
    let workshop = Workshop::new();
    workshop.train(&several(&["run.dir=whole", "students.0.recompute_blocks=2"])).succeeds();
    let found = students(&workshop, "whole");
    assert_eq!(found.len(), 16);
    for student in &found {
        let of = |key: &str| student[key].as_f64().unwrap_or_else(|| panic!("{key} in {student}"));
        let output = (of("loss_class") + of("loss_patch")) / 2.0 + 0.2 * of("loss_gram");
        let total = output + 0.5 * of("loss_early_patch");
        assert!(of("loss_early_patch") > 0.0 && (of("loss") - total).abs() < 1e-5, "{student}");
        assert!(student.get("loss_early_class").is_none(), "{student}");
    }
    let events = fs::read_dir(workshop.path("whole/tensorboard")).unwrap().next().unwrap();
    let events = fs::read(events.unwrap().path()).unwrap();
    assert!(events.windows(20).any(|bytes| bytes == b"loss_early_patch/one"), "no tag");
    let report = workshop.command(&["report", "--run", "whole"]).output().unwrap();
    assert!(report.status.success(), "{report:?}");
    let page = fs::read_to_string(workshop.path("whole/report.html")).unwrap();
    assert!(page.contains("early"), "no term on the page");
    let names: Vec<String> =
        tensors(&workshop, "whole", 8, "one").into_iter().map(|(name, _)| name).collect();
    for name in
        ["last_proj.3.bias", "last_proj.terms.early.0.weight", "last_proj.terms.early.1.bias"]
    {
        assert!(names.iter().any(|own| own == name), "{name} is not in {names:?}");
    }
    for block in [0, 1] {
        let name = format!("last_proj.targets.{block}.patch.mean");
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }

    let mut child = workshop.start(&several(&["run.dir=killed"]));
    wait_until("a checkpoint", || workshop.path("killed/checkpoints/step-2").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    workshop.train(&several(&["run.dir=killed", "students.0.recompute_blocks=0"])).succeeds();
    workshop.train(&several(&["run.dir=plain"])).succeeds();
    assert_eq!(workshop.checkpoint("killed", 8), workshop.checkpoint("plain", 8));
    // A tap's gradient is added to a block's in another order where the block is recomputed.
    for student in ["one", "two"] {
        let plain = tensors(&workshop, "plain", 8, student);
        for ((name, a), (_, b)) in plain.iter().zip(tensors(&workshop, "whole", 8, student)) {
            let off = (a - b).abs().max().double_value(&[]);
            assert!(off < 1e-3, "{student}: {name} is off by {off}");
        }
    }
}

/// Statistics are those of the first images, on any number of processes, the same for all students, and stay.
#[test]
fn statistics_of_targets_are_measured_once() {
    let workshop = Workshop::new();
    let one = workshop.train(&several(&["run.dir=one"])).succeeds();
    assert!(one.stderr.contains("on the first 20 images"), "{}", one.stderr);
    ranks::train(&workshop, 2, &several(&["run.dir=two", "checkpoint.writers=1"]));
    let of = |run: &str, step: u64, student: &str| -> Vec<(String, Tensor)> {
        let mut found = tensors(&workshop, run, step, student);
        found.retain(|(name, _)| name.starts_with("last_proj.targets."));
        assert_eq!(found.len(), 8, "two blocks, two kinds of tokens, mean and deviation");
        found
    };
    let first = of("one", 4, "one");
    for (name, value) in &first {
        let spread = value.std(true).double_value(&[]);
        assert!(spread > 1e-6, "{name} is the same for all features");
        if name.ends_with("deviation") {
            assert!(value.min().double_value(&[]) > 0.0, "{name}");
        }
    }
    for (run, step, student) in [("one", 8, "one"), ("one", 4, "two"), ("two", 8, "one")] {
        for ((name, a), (_, b)) in first.iter().zip(of(run, step, student)) {
            let off = (a - &b).abs().max().double_value(&[]);
            let least = if run == "one" { 0.0 } else { 1e-6 };
            assert!(off <= least, "{run}, {student}, step {step}: {name} is off by {off}");
        }
    }
    // They are of that run: another form of targets does not fit.
    let plain = [EARLY, "loss.gram=0.2", "run.dir=one"];
    workshop.train(&plain).fails(2, &["`teacher.targets` was \"standardised\"", "--resume never"]);
}

/// A teacher that sees the crops larger or smaller; its own size said out loud changes nothing.
#[test]
fn a_teacher_sees_another_size() {
    let workshop = Workshop::new();
    workshop.train(&["run.dir=unset"]).succeeds();
    workshop.train(&["run.dir=same", "teacher.input_size=32"]).succeeds();
    assert_eq!(workshop.checkpoint("unset", 8), workshop.checkpoint("same", 8));
    let larger = ["teacher.model.patch_size=12", "teacher.input_size=48", "run.dir=larger"];
    workshop.train(&larger).succeeds();
    let mut child = workshop.start(&[&larger[..2], &["run.dir=killed"]].concat());
    wait_until("a checkpoint", || workshop.path("killed/checkpoints/step-2").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    workshop.train(&[&larger[..2], &["run.dir=killed"]].concat()).succeeds();
    assert_eq!(workshop.checkpoint("killed", 8), workshop.checkpoint("larger", 8));
    workshop.train(&["run.dir=smaller", "teacher.input_size=16"]).succeeds();
    let bench = ["bench", "step", "--config", "config.toml", "--steps", "1", "--warmup", "0"];
    let sets = larger.iter().flat_map(|set| ["--set", set]);
    let bench: Vec<&str> = bench.into_iter().chain(sets).collect();
    Finished::of(workshop.command(&bench).output().unwrap()).succeeds();
    let other =
        workshop.train(&["run.dir=larger", "teacher.model.patch_size=12", "teacher.input_size=24"]);
    other.fails(2, &["`teacher.input_size` was 48 up to step 8, and is 24"]);
}

/// Evaluations show the teacher what it sees in training, whether or not its patches divide what students see.
#[test]
fn a_teacher_is_measured_on_what_it_sees() {
    let (workshop, [knn, data]) = labelled();
    let larger = ["teacher.model.patch_size=12", "teacher.input_size=48", "schedule.epochs=1"];
    workshop.train(&[&larger[..], &[&knn, &data]].concat()).succeeds();
    let file = fs::read_to_string(workshop.path("run/evaluation.json")).unwrap();
    assert!(file.contains("\"teacher\""), "{file}");
    let dense = "evaluation.dense={ data = { dataset = \"loveda\", root = \"x\" } }";
    let odd = ["teacher.input_size=40", "data.input_size=48", dense].map(String::from);
    let found = load_as::<DistillConfig>(&workshop.path("config.toml"), &odd).err().unwrap();
    let found = found.to_string();
    for part in ["teacher.input_size", "found 40", "5 × 5", "48 pixels", "evaluation.dense"] {
        assert!(found.contains(part), "`{part}` is not in: {found}");
    }
}

/// A student's own keys stand in the place of the shared ones.
#[test]
fn a_student_has_a_loss_of_its_own() {
    let workshop = Workshop::new();
    let own =
        ["students.1.loss={ gram = 0.5, patch = \"l1\" }", "students.0.loss.projector=linear"];
    workshop.train(&own).succeeds();
    for line in students(&workshop, "run").chunks(2) {
        assert!(line[0].get("loss_gram").is_none(), "{}", line[0]);
        let of = |key: &str| line[1][key].as_f64().unwrap();
        let total = (of("loss_class") + of("loss_patch")) / 2.0 + 0.5 * of("loss_gram");
        assert!((of("loss") - total).abs() < 1e-5, "{}", line[1]);
    }
    let names = |student| tensors(&workshop, "run", 8, student).into_iter().map(|(name, _)| name);
    assert!(names("one").any(|name| name == "last_proj.weight"));
    assert!(names("two").any(|name| name == "last_proj.3.weight"));
    let changed = ["students.1.loss={ gram = 0.25, patch = \"l1\" }", own[1]];
    workshop.train(&changed).fails(2, &["`students.1.loss.gram` was 0.5", "--accept-changes"]);
    workshop.train(&own[..1]).fails(2, &["`students.0.loss.projector` was", "--resume never"]);
    // Its encoder is read as ever, whatever stands beside it.
    let file = "run/checkpoints/step-8/one.safetensors";
    let more = ["run.dir=next", &format!("students.0.weights={file}")];
    workshop.train(&more).succeeds();
}

/// `--dry-run` says who is compared with whom.
#[test]
fn a_dry_run_tells_what_is_compared() {
    let workshop = Workshop::new();
    let sets = several(&["teacher.model.patch_size=12", "teacher.input_size=48"]);
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    let arguments: Vec<&str> =
        ["--config", "config.toml", "--dry-run"].into_iter().chain(sets).collect();
    let told = Finished::of(workshop.command(&arguments).output().unwrap()).succeeds().stdout;
    for line in [
        "output block 1 of 0-1, final norm, [8 + 8, 32], mlp to 48 | teacher's block 1 of 0-1, no norm, [8 + 16, 48], \
         standardised | class cosine, patch cosine, gram × 0.2",
        "`early` blocks 0, 1 of 0-1, final norm, [8 + 8, 32], linear to 48 | teacher's blocks 0, 0 of 0-1, no norm, \
         [8 + 16, 48], standardised | patch smooth_l1; × 0.5",
        "images 48 × 48 pixels for the teacher, 32 × 32 for its students, of crops of 48 × 48",
    ] {
        let plain: Vec<String> = told
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert!(plain.iter().any(|told| told == line), "`{line}` is not in {plain:#?}");
    }
}

/// What cannot be compared is one error, which names the key, what was found and what would do.
#[test]
fn what_cannot_be_compared_is_refused() {
    let workshop = Workshop::new();
    let term = |text: &str| format!("loss.terms=[{{ name = \"x\", {text} }}]");
    let alone = "loss.class=\"none\"";
    for (sets, parts) in [
        (
            vec![term("layers = [2]")],
            vec!["loss.terms.0.layers", "found layer 2", "0 to 1", "`one`"],
        ),
        (
            vec![term("layers = [-2]")],
            vec!["loss.terms.0.layers", "found layer -2", "-1 to -1", "`two`"],
        ),
        (
            vec![term("layers = [0], teacher_layers = [5]")],
            vec!["loss.terms.0.teacher_layers", "found layer 5", "of the teacher"],
        ),
        (
            vec![term("layers = [0, -1], teacher_layers = [0]")],
            vec!["loss.terms.0.teacher_layers", "found 1", "for 2"],
        ),
        (vec![term("layers = []")], vec!["loss.terms.0.layers", "found none", "[-1]"]),
        (
            vec![term("layers = [-1]").replace("\"x\"", "\"3\"")],
            vec!["loss.terms.0.name", "found `3`"],
        ),
        (vec![term("layers = [-1], weight = 0")], vec!["loss.terms.0.weight", "found 0"]),
        (
            vec![term("layers = [-1], projector = \"none\"")],
            vec!["loss.terms.0.projector", "width of 32", "48", "\"linear\""],
        ),
        (
            vec![term("layers = [-1], class = \"none\", patch = \"none\"")],
            vec!["loss.terms.0.patch", "found \"none\"", "loss.terms.0.gram"],
        ),
        (vec![term("layer = [-1]")], vec!["loss.terms", "did you mean `layers`?"]),
        (
            vec![term("layers = [0]"), alone.into(), "loss.patch=\"none\"".into()],
            vec!["loss.terms", "`one`", "without a gradient", "-1 among"],
        ),
        (
            vec![term("layers = [-1], norm = false"), alone.into(), "loss.patch=\"none\"".into()],
            vec!["loss.terms", "without norm", "norm = true"],
        ),
        (vec!["loss.projector=none".into()], vec!["loss.projector", "width of 32", "`one`", "48"]),
        (vec!["loss.projector=big".into()], vec!["loss.projector", "`big`", "`linear`"]),
        (vec!["loss.weight=-1".into()], vec!["loss.weight", "found -1"]),
        (vec!["students.1.loss={ gram = 0.0 }".into()], vec!["students.1.loss.gram", "found 0"]),
        (
            vec!["students.1.loss={ gramm = 1.0 }".into()],
            vec!["students.1.loss", "`gramm`", "`gram`"],
        ),
        (
            vec!["teacher.input_size=50".into()],
            vec!["teacher.input_size", "found 50", "patch size 8", "48 or 56"],
        ),
        (vec!["teacher.input_size=0".into()], vec!["teacher.input_size", "found 0"]),
        (
            vec!["teacher.targets=normal".into()],
            vec!["teacher.targets", "`normal`", "`standardised`"],
        ),
        (
            vec![STANDARDISED[0].into(), "teacher.statistics_images=0".into()],
            vec!["teacher.statistics_images", "found 0", "without images"],
        ),
    ] {
        let found = load_as::<DistillConfig>(&workshop.path("config.toml"), &sets);
        let found = found.err().unwrap_or_else(|| panic!("{sets:?} is accepted")).to_string();
        assert_eq!(found.lines().count(), 1, "{found}");
        for part in parts {
            assert!(found.contains(part), "`{part}` is not in: {found}");
        }
    }
    workshop.train(&["loss.projector=none"]).fails(2, &["loss.projector", "width of 32"]);
    assert!(!workshop.path("run").exists(), "a refused run leaves no trace");
}

/// A projector that does not fit is another run; what else is compared may change, if that is accepted.
#[test]
fn comparisons_belong_to_a_run() {
    let workshop = Workshop::new();
    workshop.train(&[EARLY, "schedule.epochs=1"]).succeeds();
    let weight = "`loss.terms.0.weight` was 0.5 up to step 2, and is 2.0";
    let others = [EARLY, "loss.terms.0.weight=2.0"];
    workshop.train(&others).fails(2, &[weight, "--accept-changes goes on"]);
    let other = [EARLY, "loss.terms.0.projector=mlp"];
    let texts = ["`loss.terms.0.projector` was \"linear\"", "does not fit", "--resume never"];
    workshop.train(&other).fails(2, &texts);
}
