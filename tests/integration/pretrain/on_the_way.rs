//! Evaluations that are made while training.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::support::ranks::Ranks;
use crate::support::workshop::{Workshop, labelled};

/// Lines of a run's metrics about evaluations.
fn evaluated(workshop: &Workshop, run: &str) -> Vec<Value> {
    let text = fs::read_to_string(workshop.path(run).join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line.get("evaluation").is_some()).collect()
}

/// The files of weights and optimizer after a run's last step.
fn state(workshop: &Workshop, run: &str, step: u64) -> Vec<(String, Vec<u8>)> {
    let folder = workshop.path(run).join(format!("checkpoints/step-{step}"));
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let tensors = files.filter(|path| path.extension().is_some_and(|end| end == "safetensors"));
    let mut all: Vec<_> = tensors
        .map(|path| (path.file_name().unwrap().to_str().unwrap().into(), fs::read(path).unwrap()))
        .collect();
    all.sort();
    assert!(!all.is_empty());
    all
}

/// Images of a step of the run that was looked at.
fn global_batch(workshop: &Workshop) -> i64 {
    let config = fs::read_to_string(workshop.path("looked/config.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    config["data"]["global_batch_size"].as_integer().unwrap()
}

/// Weights do not depend on being looked at; figures stand in the metrics and on the page, and the best
/// checkpoint stays beside the newest.
#[test]
fn weights_do_not_depend_on_being_looked_at() {
    let (workshop, [knn, data]) = labelled();
    let looked_at = knn.replace("neighbours = [1, 3] }", "neighbours = [1, 3], every = 3 }");
    assert_ne!(looked_at, knn);
    let set = |more: &[&str]| {
        let all = [&["schedule.epochs=4", "checkpoint.every=1", "checkpoint.keep=1", &data], more];
        workshop.pretrain(&all.concat())
    };
    set(&["run.dir=plain", &knn]).succeeds();
    let looked = set(&["run.dir=looked", &looked_at, "checkpoint.keep_best=\"knn.top1\""]);
    let looked = looked.succeeds();
    let newest = |run: &str| {
        let folders = fs::read_dir(workshop.path(run).join("checkpoints")).unwrap();
        let mut steps: Vec<u64> = folders
            .filter_map(|entry| {
                entry.unwrap().file_name().to_str()?.strip_prefix("step-")?.parse().ok()
            })
            .collect();
        steps.sort_unstable();
        steps
    };
    let last = *newest("plain").last().unwrap();
    assert_eq!(newest("plain"), [last]);
    assert_eq!(state(&workshop, "plain", last), state(&workshop, "looked", last));

    let lines = evaluated(&workshop, "looked");
    let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=last).filter(|step| step % 3 == 0).collect::<Vec<_>>());
    assert!(evaluated(&workshop, "plain").is_empty());
    let top1 = |line: &Value| {
        let all = line["measurements"].as_array().unwrap();
        let own = all.iter().find(|one| one["metric"] == "top1_k1").unwrap();
        own["value"].as_f64().unwrap()
    };
    let best = lines.iter().fold(None, |best: Option<&Value>, line| match best {
        Some(best) if top1(best) >= top1(line) => Some(best),
        _ => Some(line),
    });
    let best = best.unwrap()["step"].as_u64().unwrap();
    assert!(newest("looked").contains(&best), "{:?}, best {best}", newest("looked"));
    assert!(looked.stderr.contains("% of the time"), "{}", looked.stderr);

    let report = ["report", "--run", "looked"];
    assert!(workshop.command(&report).status().unwrap().success());
    let page = fs::read_to_string(workshop.path("looked/report.html")).unwrap();
    assert!(page.contains("knn: top1_k1 in %"));
    // Two processes measure the same, of the same weights up to rounding.
    let overrides = ["schedule.epochs=4", "checkpoint.every=1", "run.dir=two", &data, &looked_at];
    let global = format!("data.global_batch_size={}", global_batch(&workshop));
    let ranks =
        Ranks::start(2, |_| workshop.pretraining_command(&[&overrides[..], &[&*global]].concat()));
    for finished in ranks.finish(Duration::from_secs(120)) {
        finished.succeeds();
    }
    let of_two = evaluated(&workshop, "two");
    assert_eq!(of_two.len(), lines.len());
    for (two, one) in of_two.iter().zip(&lines) {
        assert_eq!((&two["step"], &two["measurements"]), (&one["step"], &one["measurements"]));
    }

    set(&["run.dir=wrong", &knn, "checkpoint.keep_best=\"knn.top1\""])
        .fails(2, &["checkpoint.keep_best", "every"]);
}

/// The best checkpoint is the best by figures that can be compared: not by those of other images or settings.
#[test]
fn the_best_is_not_compared_with_figures_of_other_images() {
    let (workshop, [knn, data]) = labelled();
    let looked_at = knn.replace("neighbours = [1, 3] }", "neighbours = [1, 3], every = 2 }");
    let best = "checkpoint.keep_best=\"knn.top1\"";
    let set = |evaluation: &str, more: &[&str]| {
        let all = [&[evaluation, &data, best, "checkpoint.keep=1", "checkpoint.every=1"], more];
        workshop.pretrain(&all.concat())
    };
    set(&looked_at, &[]).succeeds();
    let told = "are of other images or settings";
    let again = set(&looked_at.replace("every = 2", "every = 4"), &["schedule.epochs=6"]);
    assert!(!again.succeeds().stderr.contains(told));
    let turned = looked_at.replace("many", "none").replace("few", "many").replace("none", "few");
    let done = set(&turned, &["schedule.epochs=8"]).succeeds();
    assert!(done.stderr.contains(told), "{}", done.stderr);
    let of: Vec<_> =
        evaluated(&workshop, "pre").into_iter().map(|line| line["of"].clone()).collect();
    assert!(of.iter().all(Value::is_string) && of.first() != of.last(), "{of:?}");
    let since = evaluated(&workshop, "pre");
    let since: Vec<u64> = since
        .iter()
        .filter(|line| line["of"] == *of.last().unwrap())
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    let kept = workshop.checkpoints("pre");
    let newest = format!("step-{}", since.last().unwrap());
    let is_of_these = |name: &String| since.iter().any(|step| *name == format!("step-{step}"));
    assert!(kept.contains(&newest) && kept.iter().all(is_of_these), "{kept:?} of {since:?}");
}
