//! `distill watch`: what the terminal shows is what the run's files say.

mod endings;
mod following;
mod shown;
mod terminal;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use distill::artifacts::{MetricsLine, SlowestRank, StepMetrics, TraineeMetrics};
use distill::watch::now;

/// A run directory made by hand: 400 steps of two students are planned.
struct MadeRun {
    folder: tempfile::TempDir,
}

impl MadeRun {
    fn new() -> Self {
        let run = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(run.path()).unwrap();
        let config = "[schedule]\nepochs = 4\nsteps_per_epoch = 100\n";
        fs::write(run.path().join("config.toml"), config).unwrap();
        run
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("flagship")
    }

    /// Adds these steps, the last one `age` seconds old and the others 2 s apart.
    fn add(&self, steps: std::ops::RangeInclusive<u64>, age: f64) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.metrics()).unwrap();
        file.write_all(lines(steps, age).as_bytes()).unwrap();
    }

    fn metrics(&self) -> PathBuf {
        self.path().join("metrics.jsonl")
    }
}

/// Lines about these steps, as a run of 64 ranks writes them.
fn lines(steps: std::ops::RangeInclusive<u64>, age: f64) -> String {
    let last = *steps.end();
    let line = |step: u64| {
        let time = now() - age - 2.0 * (last - step) as f64;
        serde_json::to_string(&MetricsLine { time, metrics: metrics_of(step) }).unwrap() + "\n"
    };
    steps.map(line).collect()
}

fn metrics_of(step: u64) -> StepMetrics {
    let student = |name: &str, loss: f64| TraineeMetrics {
        name: name.into(),
        loss,
        terms: vec![("class".into(), loss / 2.0)],
        grad_norm: 0.25,
    };
    StepMetrics {
        step,
        epoch: step as f64 / 100.0,
        learning_rate: 1e-3,
        images_seen: 8192 * step,
        images_per_second: 4096.5,
        data_wait_seconds: 0.05,
        exchange_wait_seconds: Some(0.1),
        step_seconds: 2.0,
        trainees: vec![student("vith16", 1.0 / step as f64), student("vit1b16", 2.0 / step as f64)],
        flops_per_second: Some(4.04e14),
        mfu: Some(0.408),
        peak_memory_bytes: Some(70 << 30),
        failed_images: 3,
        device: Some("NVIDIA H100".into()),
        slowest_rank: Some(SlowestRank {
            rank: 17,
            host: "node3 pid 7".into(),
            steps: 20,
            seconds: 2.5,
            median_seconds: 2.0,
            part: "data".into(),
        }),
    }
}

/// Names and bytes of all files below `folder`.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => found.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    found.sort();
    found
}
