//! `distill launch` as users run it.

use std::fs;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::processes::{children, kill, wait_until};
use crate::support::workshop::{Finished, Workshop};

fn launch(workshop: &Workshop, arguments: &[&str]) -> Command {
    let mut command = workshop.command(&["launch"]);
    command.args(arguments);
    command
}

fn finished(workshop: &Workshop, arguments: &[&str]) -> Finished {
    Finished::of(launch(workshop, arguments).output().unwrap())
}

#[test]
fn each_process_speaks_under_its_rank() {
    let workshop = Workshop::new();
    let done = finished(&workshop, &["--nproc-per-node", "3", "--", "--version"]).succeeds();
    let mut lines: Vec<_> = done.stdout.lines().collect();
    lines.sort_unstable();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (rank, line) in lines.iter().enumerate() {
        let expected = format!("[rank {rank}] distill {version} (");
        assert!(line.starts_with(&expected), "{line}");
    }
}

/// Ranks are counted through the nodes.
#[test]
fn a_later_node_has_later_ranks() {
    let workshop = Workshop::new();
    let second = ["--nproc-per-node=2", "--nnodes=3", "--node-rank=1", "--master-addr=a"];
    let arguments = [&second[..], &["--master-port=29500", "--", "--version"]].concat();
    let done = finished(&workshop, &arguments).succeeds();
    assert!(done.stdout.contains("[rank 2] ") && done.stdout.contains("[rank 3] "));
    assert!(done.stderr.contains("started ranks 2 to 3 of 6"), "{}", done.stderr);
}

/// The error of a process is the launch's: its code, and its last lines in one error.
#[test]
fn an_error_of_usage_is_handed_on_and_not_repeated() {
    let workshop = Workshop::new();
    let arguments =
        ["--nproc-per-node", "2", "--max-restarts", "3", "--", "--config", "missing.toml"];
    let failed = finished(&workshop, &arguments).fails(2, &["exited with code 2", "rank "]);
    let (_, last) = failed.stderr.split_once("\nerror: rank ").unwrap();
    assert!(last.contains("\n    error: missing.toml: cannot read the config"), "{last}");
    assert!(!failed.stderr.contains("restart"), "{}", failed.stderr);
}

#[test]
fn what_is_missing_is_told() {
    let workshop = Workshop::new();
    for (arguments, key) in [
        (&["--nnodes", "2", "--", "--version"][..], "--node-rank"),
        (&["--nnodes", "2", "--node-rank", "0", "--", "--version"], "--master-addr"),
        (&["--nnodes=2", "--node-rank=0", "--master-addr=a", "--", "--version"], "--master-port"),
        (&["--node-rank", "1", "--", "--version"], "--node-rank"),
        (&["--nproc-per-node", "2"], "<ARGS>"),
        (&["--nproc-per-node", "0", "--", "--version"], "--nproc-per-node"),
    ] {
        let failed = finished(&workshop, arguments);
        assert_eq!(failed.code, Some(2), "{arguments:?}: {}", failed.stderr);
        assert!(failed.stderr.contains(key), "{arguments:?}: {}", failed.stderr);
        assert!(failed.stdout.is_empty(), "nothing was started: {}", failed.stdout);
    }
}

/// A launch of two processes that measure the data plane until they are stopped, each with a
/// worker process of its own; and all processes below it.
fn endless(workshop: &Workshop) -> (Child, Vec<u32>) {
    let measure = ["bench", "data", "--shards", "shards/*.tar", "--size=32", "--workers=1"];
    let arguments =
        [&["--nproc-per-node", "2", "--"][..], &measure[..], &["--seconds", "600"]].concat();
    let mut command = launch(workshop, &arguments);
    let launcher = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let below = || -> Vec<u32> {
        let ranks = children(launcher.id());
        ranks.iter().flat_map(|rank| children(*rank)).chain(ranks.clone()).collect()
    };
    wait_until("both have a worker", || below().len() == 4);
    let below = below();
    (launcher, below)
}

fn exists(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// However a launch ends, by SIGTERM, by the loss of a process, or by a SIGKILL that it cannot
/// know of, no process is left: neither ranks nor their workers.
#[test]
fn nothing_is_left_of_a_launch() {
    let workshop = Workshop::new();
    let (mut launcher, below) = endless(&workshop);
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    wait_until("all are gone with the launcher", || !below.iter().any(|id| exists(*id)));

    let (launcher, below) = endless(&workshop);
    kill(children(launcher.id())[1]);
    let lost = Finished::of(launcher.wait_with_output().unwrap());
    lost.fails(137, &["was ended by signal 9 (SIGKILL)"]);
    assert!(!below.iter().any(|id| exists(*id)), "a process is left");

    let (launcher, below) = endless(&workshop);
    kill_process(Pid::from_child(&launcher), Signal::TERM).unwrap();
    Finished::of(launcher.wait_with_output().unwrap()).fails(143, &["(SIGTERM)"]);
    assert!(!below.iter().any(|id| exists(*id)), "a process is left");
}

/// The arguments of a launch that trains alone, with these options and overrides.
fn training<'a>(options: &[&'a str], overrides: &[&'a str]) -> Vec<&'a str> {
    let set = overrides.iter().flat_map(|text| ["--set", text]);
    options.iter().copied().chain(["--", "--config", "config.toml"]).chain(set).collect()
}

/// A scheduler's SIGTERM to the launcher saves the run and says so by the exit code; the same
/// command goes on to where an undisturbed run ends.
#[test]
fn a_stopped_launch_resumes_bit_for_bit() {
    let workshop = Workshop::new();
    workshop.train(&["run.dir=whole"]).succeeds();
    let arguments = training(&["--nproc-per-node=1"], &["run.dir=stopped"]);
    let mut command = launch(&workshop, &arguments);
    let launcher = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it trains", || workshop.path("stopped/metrics.jsonl").exists());
    kill_process(Pid::from_child(&launcher), Signal::TERM).unwrap();
    let stopped = Finished::of(launcher.wait_with_output().unwrap());
    assert_eq!(stopped.code, Some(75), "{}", stopped.stderr);
    finished(&workshop, &arguments).succeeds();
    assert_eq!(workshop.checkpoint("stopped", 8), workshop.checkpoint("whole", 8));
}

/// A process that is killed on its way starts again from its newest checkpoint, even if the run
/// was to begin anew, and ends where an undisturbed run ends.
#[test]
fn a_restart_continues_from_the_newest_checkpoint() {
    let workshop = Workshop::new();
    workshop.train(&["run.dir=whole"]).succeeds();
    let mut arguments = training(&["--nproc-per-node=1", "--max-restarts=1"], &["run.dir=killed"]);
    arguments.extend(["--resume", "never"]);
    let mut command = launch(&workshop, &arguments);
    let launcher = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it saves", || workshop.path("killed/checkpoints/step-2").exists());
    children(launcher.id()).into_iter().for_each(kill);
    let done = Finished::of(launcher.wait_with_output().unwrap()).succeeds();
    assert!(done.stderr.contains("restart 1 of 1"), "{}", done.stderr);
    assert!(!workshop.path("killed.old-1").exists(), "the progress was moved aside");
    assert_eq!(workshop.checkpoint("killed", 8), workshop.checkpoint("whole", 8));
}
