//! Processes of one run, each started as a launcher would: by its variables.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use distill::dist::ProcessGroup;
use serde_json::Value;
use tch::Device;

use super::device;
use super::processes::{free_port, kill, wait_until};
use super::workshop::{Finished, Workshop};

/// Processes of one run, in the order of their ranks.
pub struct Ranks(Vec<Child>);

impl Ranks {
    /// Starts `size` processes of `command`, which gets each rank.
    pub fn start(size: usize, command: impl Fn(usize) -> Command) -> Self {
        let port = free_port().to_string();
        let start = |rank: usize| {
            let (rank_text, size) = (rank.to_string(), size.to_string());
            let mut command = command(rank);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).env("OMP_NUM_THREADS", "1");
            for (name, value) in [
                ("RANK", &*rank_text),
                ("LOCAL_RANK", &*rank_text),
                ("WORLD_SIZE", &*size),
                ("LOCAL_WORLD_SIZE", &*size),
                ("MASTER_ADDR", "127.0.0.1"),
                ("MASTER_PORT", &*port),
            ] {
                command.env(name, value);
            }
            command.spawn().unwrap()
        };
        Self((0..size).map(start).collect())
    }

    /// Process number of a rank.
    pub fn process(&self, rank: usize) -> u32 {
        self.0[rank].id()
    }

    /// What each left behind. Whoever goes on for more than `patience` fails the test.
    #[track_caller]
    pub fn finish(self, patience: Duration) -> Vec<Finished> {
        let (begun, patience) = (Instant::now(), device::patience(patience));
        let waits: Vec<_> = self
            .0
            .into_iter()
            .map(|child| {
                let process = child.id();
                (process, thread::spawn(move || Finished::of(child.wait_with_output().unwrap())))
            })
            .collect();
        while !waits.iter().all(|(_, wait)| wait.is_finished()) && begun.elapsed() < patience {
            thread::sleep(Duration::from_millis(20));
        }
        let late: Vec<usize> =
            (0..waits.len()).filter(|&rank| !waits[rank].1.is_finished()).collect();
        for (process, _) in &waits {
            kill(*process);
        }
        let finished: Vec<_> = waits.into_iter().map(|(_, wait)| wait.join().unwrap()).collect();
        let errors: Vec<&str> = finished.iter().map(|rank| rank.stderr.as_str()).collect();
        assert!(late.is_empty(), "ranks {late:?} go on after {patience:?}: {errors:?}");
        finished
    }
}

/// Trains to the end on `size` processes.
#[track_caller]
pub fn train(workshop: &Workshop, size: usize, overrides: &[&str]) {
    let ranks = Ranks::start(size, |_| workshop.training(overrides));
    for finished in ranks.finish(Duration::from_secs(120)) {
        finished.succeeds();
    }
}

/// Lines of a run's `metrics.jsonl`.
pub fn metrics(workshop: &Workshop, run: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(workshop.path(run).join("metrics.jsonl"));
    text.unwrap_or_default().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until the run has done `steps`.
#[track_caller]
pub fn wait_for_steps(workshop: &Workshop, run: &str, steps: usize) {
    wait_until("steps", || {
        let path = workshop.path(run).join("metrics.jsonl");
        std::fs::read_to_string(path).is_ok_and(|text| text.lines().count() >= steps)
    });
}

/// Losses of every student at every step.
pub fn losses(metrics: &[Value]) -> Vec<f64> {
    let students = metrics.iter().flat_map(|line| line["students"].as_array().unwrap());
    students.map(|student| student["loss"].as_f64().unwrap()).collect()
}

/// The group of a process that works alone.
pub fn alone(device: Device) -> ProcessGroup {
    ProcessGroup::alone(device, || false)
}
