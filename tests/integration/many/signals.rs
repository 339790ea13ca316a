//! Preemption: a signal to any rank makes all save together and end with the code that means
//! "resume me".

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Ranks, losses, metrics, train, wait_for_steps};
use crate::support::device;
use crate::support::processes::{children, free_port, signal};
use crate::support::workshop::{Workshop, slow_images};

fn terminate(process: u32) {
    signal(process, Signal::TERM);
}

/// Two ranks stopped by a signal to one of them, or to both, go on to the bits of a run that
/// nobody disturbed.
#[test]
fn a_signal_to_any_rank_saves_all() {
    let workshop = Workshop::new();
    let steps = ["schedule.epochs=200", "schedule.warmup_epochs=0", "log.every=1"];
    let overrides = |run: &'static str| [&steps[..], &[run]].concat();
    train(&workshop, 2, &overrides("run.dir=whole"));
    let ranks_asked: [&[usize]; 3] = [&[0], &[1], &[0, 1]];
    for (round, asked) in ranks_asked.into_iter().enumerate() {
        let stopped = overrides("run.dir=stopped");
        let ranks = Ranks::start(2, |_| {
            let mut command = workshop.training(&stopped);
            if round > 0 {
                command.args(["--resume", "auto"]);
            }
            command
        });
        let before = metrics(&workshop, "stopped").len();
        wait_for_steps(&workshop, "stopped", before + 5);
        asked.iter().for_each(|&rank| terminate(ranks.process(rank)));
        for finished in ranks.finish(Duration::from_secs(30)) {
            assert_eq!(finished.code, Some(75), "{}", finished.stderr);
            assert!(finished.stderr.contains("stopped by"), "{}", finished.stderr);
        }
    }
    let done = metrics(&workshop, "stopped").len();
    assert!(done < 400, "the run was over before it was stopped");
    train(&workshop, 2, &overrides("run.dir=stopped"));
    let (whole, stopped) = (metrics(&workshop, "whole"), metrics(&workshop, "stopped"));
    assert_eq!(losses(&stopped), losses(&whole));
    assert_eq!(workshop.checkpoint("stopped", 400), workshop.checkpoint("whole", 400));
}

/// One rank waits for images that do not come, the other for that one's gradients, and only the
/// latter gets the signal: both give the step up, save, and end.
#[test]
fn a_rank_without_data_holds_up_no_preemption() {
    let workshop = slow_images();
    let endless = ["schedule.epochs=10000", "checkpoint.every=100000"];
    let ranks = Ranks::start(2, |_| workshop.training(&endless));
    wait_for_steps(&workshop, "run", 1);
    let workers = children(ranks.process(1));
    assert_eq!(workers.len(), 2);
    for &worker in &workers {
        signal(worker, Signal::STOP);
    }
    std::thread::sleep(Duration::from_secs(1)); // what is ready is trained on
    let steps = metrics(&workshop, "run").len();
    terminate(ranks.process(0));
    for finished in ranks.finish(Duration::from_secs(20)) {
        assert_eq!(finished.code, Some(75), "{}", finished.stderr);
    }
    // A step's line is written during the next one.
    let saved = metrics(&workshop, "run").len();
    assert!((steps..=steps + 1).contains(&saved), "{steps} steps were done, {saved} saved");
    assert_eq!(workshop.checkpoints("run"), [format!("step-{saved}")]);
}

/// The same with so many sums under way that a GPU's queue is full, where the next call into the
/// driver blocks: the rank that is stuck in it must be freed by the one that gives up.
#[test]
fn a_full_queue_holds_up_no_preemption() {
    let workshop = slow_images();
    let overrides = [
        "schedule.epochs=10000",
        "checkpoint.every=100000",
        "students.0.model.depth=52",
        "students.1.model.depth=52",
        // One sum for each of more than 1,200 parameters.
        "distributed.bucket_megabytes=1e-6",
        "distributed.timeout_seconds=120",
    ];
    let ranks = Ranks::start(2, |_| workshop.training(&overrides));
    wait_for_steps(&workshop, "run", 1);
    for worker in children(ranks.process(1)) {
        signal(worker, Signal::STOP);
    }
    let steps = || metrics(&workshop, "run").len();
    let (mut before, mut quiet) = (steps(), Instant::now());
    while quiet.elapsed() < device::patience(Duration::from_secs(3)) {
        std::thread::sleep(Duration::from_millis(100));
        if steps() > before {
            (before, quiet) = (steps(), Instant::now());
        }
    }
    terminate(ranks.process(0));
    for finished in ranks.finish(Duration::from_secs(20)) {
        assert_eq!(finished.code, Some(75), "{}", finished.stderr);
    }
    assert_eq!(workshop.checkpoints("run"), [format!("step-{}", steps())]);
}

/// A rank that waits for others that never come can be stopped.
#[test]
fn who_waits_for_the_others_can_be_stopped() {
    let workshop = Workshop::new();
    let mut command = workshop.training(&[]);
    for (name, value) in [
        ("RANK", "0"),
        ("LOCAL_RANK", "0"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_WORLD_SIZE", "2"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", &free_port().to_string()),
    ] {
        command.env(name, value);
    }
    let mut waiting = command.stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(waiting.try_wait().unwrap(), None);
    terminate(waiting.id());
    assert_eq!(waiting.wait().unwrap().code(), Some(75));
}
