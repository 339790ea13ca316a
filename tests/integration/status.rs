//! What one can ask a live run: SIGQUIT prints where it is, a log at debug level shows its phases.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::support::processes::wait_until;
use crate::support::ranks::wait_for_steps;
use crate::support::workshop::labelled;
use crate::support::workshop::{Finished, Workshop};

/// 600 steps, so that a signal comes in their middle.
const LONG: [&str; 3] = ["schedule.epochs=300", "schedule.warmup_epochs=0", "checkpoint.every=160"];

/// Starts `command` in a process group of its own, as a terminal does, sends SIGQUIT to the whole
/// group (Ctrl-\) in mid-run, and returns what it left when it has ended by itself.
#[track_caller]
fn asked(workshop: &Workshop, run: &str, mut command: Command) -> Finished {
    command.process_group(0).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.env("OMP_NUM_THREADS", "1").spawn().unwrap();
    wait_for_steps(workshop, run, 3);
    wait_until("a checkpoint", || workshop.path(run).join("checkpoints/step-160").exists());
    kill_process_group(Pid::from_child(&child), Signal::QUIT).unwrap();
    Finished::of(child.wait_with_output().unwrap()).succeeds()
}

fn overrides(run: &'static str) -> Vec<&'static str> {
    LONG.iter().copied().chain([run]).collect()
}

/// The lines of a dump, without `prefix`.
#[track_caller]
fn dump_of(finished: &Finished, prefix: &str, who: &str) -> Vec<String> {
    let own = finished.stderr.lines().filter_map(|line| line.strip_prefix(prefix));
    let begins = format!("status of {who} (");
    let ends = format!("end of the status of {who}");
    let mut lines: Vec<String> = own.map(str::to_string).collect();
    let count = lines.iter().filter(|line| line.starts_with(&begins)).count();
    assert_eq!(count, 1, "dumps of {who} in: {}", finished.stderr);
    lines.drain(..lines.iter().position(|line| line.starts_with(&begins)).unwrap());
    let end = lines.iter().position(|line| *line == ends);
    lines.truncate(end.unwrap_or_else(|| panic!("no end in: {}", finished.stderr)));
    // A log line may come between.
    lines.retain(|line| line.starts_with(' ') || line.starts_with("status"));
    lines
}

#[track_caller]
fn assert_told(dump: &[String], parts: &[&str]) {
    for part in parts {
        assert!(dump.iter().any(|line| line.contains(part)), "`{part}` is not in {dump:#?}");
    }
}

/// All that a process of any run tells.
const EVERY_DUMP: [&str; 11] = [
    "  loader: ",
    "    worker-1: process ",
    "  training thread: ",
    ", at step ",
    "; last progress 0.",
    "  prefetcher: ",
    " batches on the device; ",
    "  checkpoint: ",
    "  threads: name: state, where it waits",
    "    status: R ",
    "    worker-0: ",
];

/// The run answers, its workers do not mind, and its weights are those of a run that nobody asked.
#[test]
fn a_run_answers_sigquit_and_goes_on() {
    let workshop = Workshop::new();
    let mut whole = workshop.training(&overrides("run.dir=whole"));
    Finished::of(whole.env("OMP_NUM_THREADS", "1").output().unwrap()).succeeds();
    let command = workshop.training(&overrides("run.dir=asked"));
    let finished = asked(&workshop, "asked", command);
    let dump = dump_of(&finished, "", "a run of one process");
    assert_told(&dump, &EVERY_DUMP);
    assert!(!finished.stderr.contains("is replaced"), "a worker died: {}", finished.stderr);
    assert_eq!(workshop.checkpoint("asked", 600), workshop.checkpoint("whole", 600));
}

/// The same of two ranks under `distill launch`, which passes the signal on; rank 0 tells where it
/// sees the other one.
#[test]
fn a_launch_has_each_rank_answer() {
    let workshop = Workshop::new();
    let launch = |run: &'static str| {
        let mut command = workshop.command(&["launch", "--nproc-per-node=2", "--"]);
        // Signs of life twice a second.
        command.args(["--config", "config.toml", "--set", "distributed.timeout_seconds=5"]);
        for text in overrides(run) {
            command.args(["--set", text]);
        }
        command
    };
    let mut whole = launch("run.dir=whole");
    Finished::of(whole.env("OMP_NUM_THREADS", "1").output().unwrap()).succeeds();
    let finished = asked(&workshop, "asked", launch("run.dir=asked"));
    for rank in 0..2 {
        let prefix = format!("[rank {rank}] ");
        let dump = dump_of(&finished, &prefix, &format!("rank {rank} of 2"));
        assert_told(&dump, &EVERY_DUMP);
        assert_told(
            &dump,
            &[
                "  heartbeat: ",
                " beats, last contact with the store ",
                "    rank 0 (",
                "    watchdog: S ",
            ],
        );
        let sees_the_other = dump.iter().any(|line| {
            line.starts_with("    rank 1 (") && line.contains(" at step ") && line.contains("beat")
        });
        assert_eq!(sees_the_other, rank == 0, "{dump:#?}");
    }
    assert_eq!(workshop.checkpoint("asked", 600), workshop.checkpoint("whole", 600));
}

/// At debug level every phase of a run tells how long it took; at the usual level nothing does.
#[test]
fn phases_are_spans_at_debug_level() {
    let workshop = Workshop::new();
    let mut command = workshop.training(&[]);
    command.args(["--log-level", "debug"]);
    let log = Finished::of(command.output().unwrap()).succeeds().stderr;
    let took = |log: &str, phase: &str| {
        let line = format!("debug: {phase} close time.busy=");
        assert!(log.contains(&line), "no `{line}` in: {log}");
    };
    for phase in [
        "join",
        "open_run",
        "open_dataset",
        "load_models",
        "train:step{step=1}:data",
        "train:step{step=8}:targets",
        "train:step{step=8}:forward{trainee=\"one\"}",
        "train:step{step=8}:backward{trainee=\"two\"}",
        "train:step{step=8}:exchange",
        "train:step{step=8}:update",
        "train:step{step=8}",
        "train:read_numbers{step=8}",
        "train:save_checkpoint{step=8}",
        "train",
        "write_checkpoint{step=8}",
        "finish_checkpoint",
        "open_checkpoint",
        "export",
        "evaluate",
    ] {
        took(&log, phase);
    }
    let usual = workshop.train(&["run.dir=usual"]).succeeds().stderr;
    assert!(!usual.contains("time.busy") && !usual.contains("debug"), "{usual}");

    let (workshop, [knn, data]) = labelled();
    let mut command = workshop.pretraining_command(&[&knn, &data]);
    command.args(["--log-level", "debug", "--log-format", "json"]);
    let log = Finished::of(command.output().unwrap()).succeeds().stderr;
    let ended: Vec<String> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a JSON line"))
        .filter(|line| line["message"] == "close")
        .map(|line| line["span"]["name"].as_str().unwrap().to_string())
        .collect();
    for phase in ["draw", "evaluate", "step"] {
        assert!(ended.iter().any(|name| name == phase), "{phase} is not in {ended:?}: {log}");
    }
}
