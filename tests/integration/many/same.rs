//! The same training at any number of processes, and from one number to another.

use std::collections::BTreeMap;
use std::time::Duration;

use distill::weights::TensorFile;

use super::{Ranks, losses, metrics, train};
use crate::support::workshop::Workshop;

/// Twenty-four steps of eight images, at the recipe's learning rate: the bias of attention's keys
/// has no effect, so its gradient is rounding noise, which Adam turns into steps of that size.
const STEPS: [&str; 6] = [
    "optimizer.learning_rate=1e-3",
    "data.global_batch_size=8",
    "schedule.epochs=12",
    "checkpoint.every=12",
    "distributed.check_every=1",
    // Several buckets, of models that would fit into one.
    "distributed.bucket_megabytes=0.01",
];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    STEPS.iter().copied().chain(more.iter().copied()).collect()
}

/// Every weight of a run's last checkpoint, by student and tensor, whichever ranks wrote it.
fn weights(workshop: &Workshop, run: &str, step: u64) -> BTreeMap<String, Vec<f32>> {
    let folder = workshop.path(run).join(format!("checkpoints/step-{step}"));
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if !name.ends_with(".safetensors") || name.contains(".optimizer") {
            continue;
        }
        let student = &name[..3];
        let file = TensorFile::open(&path).unwrap();
        for (tensor, shape, _) in file.tensors() {
            let count = shape.iter().product();
            let values = file.read(tensor, 0..count).unwrap().reshape([-1]);
            all.insert(format!("{student}/{tensor}"), Vec::<f32>::try_from(values).unwrap());
        }
    }
    assert!(!all.is_empty());
    all
}

#[track_caller]
fn assert_losses(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs() / expected;
        assert!(error <= 1e-5, "{what}: {found} is not {expected} at line {step}");
    }
}

#[track_caller]
fn assert_weights(
    found: &BTreeMap<String, Vec<f32>>,
    expected: &BTreeMap<String, Vec<f32>>,
    tolerance: f32,
    what: &str,
) {
    assert!(found.keys().eq(expected.keys()), "{what}: other tensors");
    for (name, values) in expected {
        for (a, b) in found[name].iter().zip(values) {
            assert!((a - b).abs() <= tolerance, "{what}: {name}: {a} is not {b}");
        }
    }
}

/// 1, 2, 3 (whose shares differ) and 4 processes, batch by batch and in one batch a step.
#[test]
fn the_number_of_processes_changes_no_result() {
    let workshop = Workshop::new();
    workshop.train(&with(&["run.dir=on-1"])).succeeds();
    let (expected, expected_weights) =
        (losses(&metrics(&workshop, "on-1")), weights(&workshop, "on-1", 24));
    assert_eq!(expected.len(), 48);
    for size in [2, 3, 4] {
        let (run, batch) = (format!("on-{size}"), format!("data.batch_size={}", 6 - size));
        train(&workshop, size, &with(&[&batch, &format!("run.dir={run}")]));
        let lines = metrics(&workshop, &run);
        assert_losses(&losses(&lines), &expected, &run);
        assert!(lines.iter().all(|line| line["exchange_wait_seconds"].is_number()));
        assert_eq!(lines[23]["images_seen"], 192);
        assert_weights(&weights(&workshop, &run, 24), &expected_weights, 1e-3, &run);
    }
}

/// Blocks that are computed again give each gradient once to the exchange, which counts them.
#[test]
fn recomputed_blocks_exchange_the_same_gradients() {
    let workshop = Workshop::new();
    train(&workshop, 2, &with(&["run.dir=plain"]));
    let switches = ["run.dir=recomputed", "students.0.recompute_blocks=2"];
    train(&workshop, 2, &with(&switches));
    assert_eq!(weights(&workshop, "recomputed", 24), weights(&workshop, "plain", 24));
}

/// A run begun on four processes goes on with three, two and one, on the same samples.
#[test]
fn a_run_goes_on_with_another_number_of_processes() {
    let workshop = Workshop::new();
    workshop.train(&with(&["run.dir=whole"])).succeeds();
    let expected = losses(&metrics(&workshop, "whole"));
    let begin = with(&["run.dir=begun", "distributed.shard_optimizer=true"]);
    // Stopped at the checkpoint in the middle by a schedule that ends later.
    let ranks = Ranks::start(4, |_| workshop.training(&begin));
    for finished in ranks.finish(Duration::from_secs(120)) {
        finished.succeeds();
    }
    for size in [3, 2, 1] {
        let run = format!("run.dir=from-4-on-{size}");
        let overrides = with(&[&run]);
        let ranks = Ranks::start(size, |_| {
            let mut command = workshop.training(&overrides);
            command.args(["--resume", "begun/checkpoints/step-12"]);
            command
        });
        for finished in ranks.finish(Duration::from_secs(120)) {
            finished.succeeds();
        }
        let lines = metrics(&workshop, &format!("from-4-on-{size}"));
        assert_eq!((lines.len(), &lines[0]["step"]), (12, &13.into()));
        assert_eq!(lines[0]["images_seen"], 13 * 8);
        assert_losses(&losses(&lines), &expected[24..], &run);
    }
}

/// Without `data.global_batch_size` a run keeps the global batch that it was begun with.
#[test]
fn the_global_batch_of_a_run_stays() {
    let workshop = Workshop::new();
    let config = std::fs::read_to_string(workshop.path("config.toml")).unwrap();
    let config = config.replace("global_batch_size = 4\n", "");
    std::fs::write(workshop.path("config.toml"), config).unwrap();
    train(&workshop, 2, &["schedule.epochs=1"]);
    assert_eq!(metrics(&workshop, "run")[1]["images_seen"], 2 * 2 * 2);
    workshop.train(&["schedule.epochs=2"]).succeeds();
    assert_eq!(metrics(&workshop, "run")[3]["images_seen"], 4 * 2 * 2);
}

/// Dividing the optimizer's state over ranks changes no weight, and no rank holds all of it.
#[test]
fn sharded_optimizers_give_the_same_weights() {
    let workshop = Workshop::new();
    // Clipping needs the norm over all shares, which is summed in another order.
    for (clip, tolerance) in [("1e9", 0.0), ("0.05", 1e-4)] {
        let clip = format!("optimizer.clip_grad_norm={clip}");
        for (run, sharded) in [("whole", "false"), ("sharded", "true")] {
            let (dir, sharded) =
                (format!("run.dir={run}"), format!("distributed.shard_optimizer={sharded}"));
            let overrides = with(&[&dir, &sharded, &clip]);
            let ranks = Ranks::start(2, |_| {
                let mut command = workshop.training(&overrides);
                command.args(["--resume", "never"]);
                command
            });
            for finished in ranks.finish(Duration::from_secs(120)) {
                finished.succeeds();
            }
        }
        assert_losses(
            &losses(&metrics(&workshop, "sharded")),
            &losses(&metrics(&workshop, "whole")),
            &clip,
        );
        let (sharded, whole) = (weights(&workshop, "sharded", 24), weights(&workshop, "whole", 24));
        assert_weights(&sharded, &whole, tolerance, &clip);
    }
    let folder = workshop.path("sharded").join("checkpoints/step-24");
    let size = |name: &str| std::fs::metadata(folder.join(name)).unwrap().len() as f64;
    let parts = ["one.optimizer-00001-of-00002", "one.optimizer-00002-of-00002"]
        .map(|name| size(&format!("{name}.safetensors")));
    assert!((parts[0] / parts[1] - 1.0).abs() < 0.1, "shares of {parts:?} bytes");
}

/// Gradients in bf16 on the wire: half the bytes, about the same losses.
#[test]
fn gradients_may_travel_in_bf16() {
    let workshop = Workshop::new();
    for precision in ["fp32", "bf16"] {
        let precision_key = format!("distributed.gradient_precision={precision}");
        train(&workshop, 2, &with(&[&format!("run.dir={precision}"), &precision_key]));
    }
    let (fp32, bf16) = (losses(&metrics(&workshop, "fp32")), losses(&metrics(&workshop, "bf16")));
    assert_ne!(fp32, bf16);
    for (a, b) in fp32.iter().zip(&bf16) {
        assert!((a - b).abs() <= 0.02 * a, "{b} is far from {a}");
    }
}
