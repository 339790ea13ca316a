//! What a run measures of its encoders when it has ended.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::processes::send;
use crate::support::ranks::Ranks;
use crate::support::workshop::{Finished, Workshop, image, labelled};

fn evaluation(workshop: &Workshop, run: &str) -> Value {
    let text = fs::read(workshop.path(run).join("evaluation.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// The k-NN result of a run.
fn knn_of(evaluation: &Value) -> &Value {
    let results = evaluation["results"].as_array().unwrap();
    results.iter().find(|result| result["name"] == "knn").unwrap()
}

/// Names, roles and top-1 accuracies of k-NN, in their order.
fn encoders(evaluation: &Value) -> Vec<(String, String, Vec<f64>)> {
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let mut encoders: Vec<(String, String, Vec<f64>)> = Vec::new();
    let all = knn_of(evaluation)["measurements"].as_array().unwrap().iter();
    for one in all.filter(|one| one["metric"].as_str().unwrap().starts_with("top1")) {
        let (name, role) = (text(&one["encoder"]), text(&one["role"]));
        let value = one["value"].as_f64().unwrap();
        match encoders.last_mut().filter(|last| (&last.0, &last.1) == (&name, &role)) {
            Some((.., values)) => values.push(value),
            None => encoders.push((name, role, vec![value])),
        }
    }
    encoders
}

/// How many reference and held-out images there were.
fn images(evaluation: &Value) -> [u64; 2] {
    [0, 1].map(|set| knn_of(evaluation)["images"][set]["count"].as_u64().unwrap())
}

/// `distill eval knn` on exported weights.
fn eval(workshop: &Workshop, weights: &str) -> Vec<f64> {
    let arguments = [
        "eval",
        "knn",
        "--weights",
        weights,
        "--reference",
        "shards/many.tar",
        "--held-out",
        "shards/few.tar",
        "--input-size=32",
        "--neighbours=1,3",
        "--json",
        "--heads=2",
    ];
    let done = Finished::of(workshop.command(&arguments).output().unwrap()).succeeds();
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    let top1 = |one: &Value| one["top1"].as_f64().unwrap();
    report["accuracies"].as_array().unwrap().iter().map(top1).collect()
}

/// The figures at the end of a run are those of the exported weights and of the weights that training
/// began with; they are in the file, on the screen and in the report.
#[test]
fn a_run_ends_with_the_figures_of_its_encoders() {
    let (workshop, [knn, data]) = labelled();
    let done = workshop.pretrain(&[&knn, &data]).succeeds();
    for words in
        ["k-NN top-1 and top-5 accuracy (12 reference images", "      k = 1      k = 3    top-5 1"]
    {
        assert!(done.stdout.contains(words), "`{words}` is not in {}", done.stdout);
    }
    let found = evaluation(&workshop, "pre");
    assert_eq!(found["version"], 3);
    assert_eq!(knn_of(&found)["step"], 8);
    let measured = encoders(&found);
    let names: Vec<_> = measured.iter().map(|(name, role, _)| (&**name, &**role)).collect();
    assert_eq!(names, [("encoder", "random"), ("encoder", "trained")]);
    assert_eq!(measured[1].2, eval(&workshop, "pre/exports/encoder"));
    // A step at a learning rate of nothing leaves the drawn weights.
    let still = ["run.dir=still", "schedule.epochs=0.5", "schedule.warmup_epochs=0.5"];
    let still =
        [&still[..], &["optimizer.learning_rate=0", "reconstructions.every=0", &data]].concat();
    workshop.pretrain(&still).succeeds();
    assert_eq!(measured[0].2, eval(&workshop, "still/exports/encoder"));
    for (_, role, accuracies) in &measured {
        let shown = format!("{:.1} %", 100.0 * accuracies[0]);
        let line = done.stdout.lines().find(|line| line.contains(role.as_str())).unwrap();
        assert!(line.contains(&shown), "{shown} is not in {line}");
    }

    let model = "teacher.model={ dim = 32, depth = 2, heads = 2, patch_size = 8 }";
    let weights = "teacher.weights=pre/exports/encoder";
    let begun = "students.1.weights=pre/exports/encoder";
    let student = "students.1.model={ dim = 32, depth = 2, heads = 2, patch_size = 8 }";
    workshop.train(&[&knn, &data, model, weights, begun, student]).succeeds();
    let distilled = encoders(&evaluation(&workshop, "run"));
    let names: Vec<_> = distilled.iter().map(|(name, role, _)| (&**name, &**role)).collect();
    let expected = [
        ("one", "random"),
        ("one", "trained"),
        ("two", "initial"),
        ("two", "trained"),
        ("teacher", "teacher"),
    ];
    assert_eq!(names, expected);
    assert_eq!(distilled[4].2, measured[1].2, "the teacher is the encoder that was pre-trained");
    assert_eq!(distilled[2].2, measured[1].2, "and so is what a student began with");
    assert_eq!(distilled[1].2, eval(&workshop, "run/exports/one"));

    // Nothing is measured twice, and another question is.
    let file = workshop.path("run/evaluation.json");
    let before = fs::metadata(&file).unwrap().modified().unwrap();
    let again = workshop.train(&[&knn, &data, model, weights, begun, student]).succeeds();
    assert!(again.stdout.contains("12 reference images, 6 held-out images"), "{}", again.stdout);
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), before);
    let fewer = "evaluation.knn.most_held_out=4";
    workshop.train(&[&knn, &data, model, weights, begun, student, fewer]).succeeds();
    assert_eq!(images(&evaluation(&workshop, "run")), [12, 4]);
}

/// Another evaluation of the same images takes no other pass, and adds its figures to those that are
/// there.
#[test]
fn evaluations_of_the_same_images_share_their_features() {
    let (workshop, [knn, data]) = labelled();
    let centroid =
        knn.replace("evaluation.knn", "evaluation.centroid").replace(", neighbours = [1, 3]", "");
    let done = workshop.pretrain(&[&knn, &centroid, &data]).succeeds();
    let passes = |stderr: &str, set: &str| {
        let line = format!("features of {set} images");
        stderr.lines().filter(|told| told.ends_with(&line)).count()
    };
    assert_eq!(
        ["reference", "held-out"].map(|set| passes(&done.stderr, set)),
        [1, 1],
        "{}",
        done.stderr
    );
    for title in ["k-NN top-1 and top-5 accuracy (12 ", "Nearest-centroid top-1 accuracy (12 "] {
        assert!(done.stdout.contains(title), "`{title}` is not in {}", done.stdout);
    }
    let both = evaluation(&workshop, "pre");
    let results = both["results"].as_array().unwrap();
    let names: Vec<_> = results.iter().map(|result| &result["name"]).collect();
    assert_eq!(names, ["knn", "centroid"]);
    let measurement = &results[1]["measurements"][1];
    assert_eq!((&measurement["role"], &measurement["metric"]), (&json!("trained"), &json!("top1")));
    let arguments = [
        "eval",
        "centroid",
        "--weights=pre/exports/encoder",
        "--reference=shards/many.tar",
        "--held-out=shards/few.tar",
        "--input-size=32",
        "--json",
        "--heads=2",
    ];
    let alone = Finished::of(workshop.command(&arguments).output().unwrap()).succeeds();
    let alone: Value = serde_json::from_str(&alone.stdout).unwrap();
    assert_eq!(measurement["value"], alone["top1"]);

    // Of two, one is there.
    let file = workshop.path("pre/evaluation.json");
    fs::write(&file, first_version(&both).to_string()).unwrap();
    let again = workshop.pretrain(&[&centroid, &knn, &data]).succeeds();
    assert_eq!(passes(&again.stderr, "reference"), 1, "{}", again.stderr);
    let found = evaluation(&workshop, "pre");
    let results_again = found["results"].as_array().unwrap();
    assert_eq!(results_again[0], results[1]);
    // The first version had no top-5.
    let all = results[0]["measurements"].as_array().unwrap().iter();
    let top1: Vec<&Value> =
        all.filter(|one| one["metric"].as_str().unwrap().starts_with("top1")).collect();
    let kept: Vec<&Value> = results_again[1]["measurements"].as_array().unwrap().iter().collect();
    assert_eq!(kept, top1);
}

/// The result as a run wrote it before the file had a version.
fn first_version(evaluation: &Value) -> Value {
    let knn = knn_of(evaluation);
    let of = &knn["of"];
    let [reference, held_out] = images(evaluation);
    let encoders: Vec<Value> = encoders(evaluation)
        .into_iter()
        .map(|(name, role, accuracies)| json!({"name": name, "role": role, "accuracies": accuracies}))
        .collect();
    json!({
        "step": knn["step"],
        "of": {
            "weights": of["weights"], "config": {"knn": of["settings"]},
            "input_size": of["input_size"], "mean": of["mean"], "std": of["std"],
            "precision": of["precision"],
        },
        "knn": {
            "reference_pictures": reference, "held_out_pictures": held_out,
            "temperature": of["settings"]["temperature"],
            "neighbours": of["settings"]["neighbours"], "encoders": encoders,
        },
    })
}

/// A file of the first version counts: nothing is measured again, and the figures are shown. What
/// cannot be read is measured.
#[test]
fn figures_of_an_earlier_version_are_not_measured_again() {
    let (workshop, [knn, data]) = labelled();
    workshop.pretrain(&[&knn, &data]).succeeds();
    let file = workshop.path("pre/evaluation.json");
    let mut first = first_version(&evaluation(&workshop, "pre"));
    // No measuring would give it.
    first["knn"]["encoders"][1]["accuracies"][0] = json!(0.123);
    fs::write(&file, first.to_string()).unwrap();
    let again = workshop.pretrain(&[&knn, &data]).succeeds();
    assert!(again.stdout.contains("trained      12.3 %"), "{}", again.stdout);
    assert_eq!(fs::read_to_string(&file).unwrap(), first.to_string(), "it is left as it was");

    fs::write(&file, "{\"version\": 4}").unwrap();
    let again = workshop.pretrain(&[&knn, &data]).succeeds();
    assert!(again.stderr.contains("version 4"), "{}", again.stderr);
    let found = evaluation(&workshop, "pre");
    assert_eq!(found["version"], 3);
    assert_eq!(encoders(&found)[1].2, eval(&workshop, "pre/exports/encoder"));
}

/// Figures are of the weights that are there: going back and training otherwise has them measured
/// again, although the step is the same. Several processes leave what one leaves.
#[test]
fn figures_are_of_the_weights_that_are_there() {
    let (workshop, [knn, data]) = labelled();
    workshop.pretrain(&[&knn, &data]).succeeds();
    let weights = |run: &str| knn_of(&evaluation(&workshop, run))["of"]["weights"].clone();
    let before = weights("pre");
    let mut command = workshop.pretraining_command(&[&knn, &data, "optimizer.learning_rate=0.1"]);
    command.args(["--resume", "pre/checkpoints/step-6"]);
    Finished::of(command.output().unwrap()).succeeds();
    let after = weights("pre");
    assert_ne!(before, after);
    assert_eq!(
        encoders(&evaluation(&workshop, "pre"))[1].2,
        eval(&workshop, "pre/exports/encoder")
    );

    let set = [&*knn, &*data, "run.dir=two"];
    let ranks = Ranks::start(2, |_| workshop.pretraining_command(&set));
    for finished in ranks.finish(Duration::from_secs(120)) {
        finished.succeeds();
    }
    let measured = encoders(&evaluation(&workshop, "two"));
    assert_eq!(measured[1].2, eval(&workshop, "two/exports/encoder"));
}

/// What could not be measured in the end is said before anything is trained, by its key.
#[test]
fn figures_that_cannot_be_had_are_named() {
    let (workshop, [_, data]) = labelled();
    let fails = |table: &str, code: i32, says: &[&str]| {
        let table = format!("evaluation.knn={{ {table} }}");
        workshop.pretrain(&[&table, &data, "run.dir=wrong"]).fails(code, says);
        assert!(!workshop.path("wrong/metrics.jsonl").exists(), "nothing was trained");
    };
    fails("reference = [], held_out = [\"shards/few.tar\"]", 2, &["evaluation.knn.reference"]);
    let both = "reference = [\"shards/many.tar\"], held_out = [\"shards/few.tar\"]";
    fails(&format!("{both}, neighbours = [0]"), 2, &["evaluation.knn.neighbours", "[0]"]);
    fails(&format!("{both}, temperature = 0"), 2, &["evaluation.knn.temperature"]);
    let unlabelled = "reference = [\"shards/0.tar\"], held_out = [\"shards/few.tar\"]";
    fails(
        &format!("{unlabelled}, neighbours = [1]"),
        1,
        &["evaluation.knn.reference", "shards/0.tar", "has a label"],
    );
    fails(&format!("{both}, neighbours = [13]"), 1, &["13 neighbours", "12 reference images"]);
    let none = "reference = [\"none/*.tar\"], held_out = [\"shards/few.tar\"], neighbours = [1]";
    let few = format!("{both}, neighbours = [3], most_reference = 2");
    fails(&few, 2, &["evaluation.knn.most_reference", "3 neighbours"]);
    fails(none, 2, &["evaluation.knn.reference", "none/*.tar"]);
}

/// A signal while encoders are measured ends that, not the run: what was trained is exported, and the
/// same command measures.
#[test]
fn a_signal_while_measuring_leaves_it_for_later() {
    let (workshop, [knn, data]) = labelled();
    let members: Vec<_> = (0..1500)
        .flat_map(|i| [(format!("{i}.jpg"), image(i)), (format!("{i}.cls"), b"1".to_vec())])
        .collect();
    workshop.shard("shards/many.tar", &members);
    let set = [&*knn, &*data, "data.batch_size=1", "data.global_batch_size=2"];
    let mut command = workshop.pretraining_command(&set);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut told = Vec::new();
    for line in lines {
        if line.ends_with("features of reference images") {
            send("TERM", child.id());
        }
        told.push(line);
    }
    assert_eq!(child.wait().unwrap().code(), Some(75), "{told:#?}");
    assert!(told.last().unwrap().contains("SIGTERM while encoders were measured"), "{told:#?}");
    assert!(workshop.path("pre/exports/encoder/model.safetensors").exists());
    assert!(!workshop.path("pre/evaluation.json").exists());
    workshop.pretrain(&set).succeeds();
    assert_eq!(images(&evaluation(&workshop, "pre")), [1500, 6]);
}
