//! A process that is killed, hangs or fails ends the whole run, in time, with its name.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Ranks, wait_for_steps};
use crate::support::processes::{children, has_ended, signal, wait_until};
use crate::support::workshop::{Workshop, image, labelled};

/// A run that would go on for an hour, and notices silence after three seconds.
const ENDLESS: [&str; 4] = [
    "schedule.epochs=100000",
    "data.global_batch_size=6",
    "distributed.timeout_seconds=3",
    "checkpoint.every=1000",
];

/// Sends `harm` to `victim` of three ranks in mid-run, and expects that the others end within
/// `patience` with an error that names it and the step.
#[track_caller]
fn others_name(victim: usize, harm: Signal, patience: f64, words: &str) {
    others_of_run_name(&ENDLESS, victim, harm, patience, words);
}

#[track_caller]
fn others_of_run_name(overrides: &[&str], victim: usize, harm: Signal, patience: f64, words: &str) {
    let workshop = Workshop::new();
    let ranks = Ranks::start(3, |_| {
        let mut command = workshop.training(overrides);
        // NCCL's ranks as on three nodes: those of one node do not notice that another is gone.
        command.envs([("NCCL_P2P_DISABLE", "1"), ("NCCL_SHM_DISABLE", "1")]);
        command
    });
    wait_for_steps(&workshop, "run", 3);
    let processes: Vec<u32> = (0..3).map(|rank| ranks.process(rank)).collect();
    let workers: Vec<u32> = processes.iter().flat_map(|&process| children(process)).collect();
    assert!(!workers.is_empty());
    let begun = Instant::now();
    signal(processes[victim], harm);
    let others: Vec<u32> =
        processes.iter().copied().filter(|&process| process != processes[victim]).collect();
    crate::support::processes::wait_until("the others' end", || {
        others.iter().all(|&p| has_ended(p))
    });
    let seconds = begun.elapsed().as_secs_f64();
    assert!(seconds < patience, "noticed after {seconds:.1} s");
    crate::support::processes::kill(processes[victim]);
    let finished = ranks.finish(Duration::from_secs(10));
    for (rank, finished) in finished.into_iter().enumerate().filter(|(rank, _)| *rank != victim) {
        let name = format!("rank {victim} (");
        let text = finished.stderr.clone();
        finished.fails(1, &[&name, words, "at step "]);
        assert!(!text.contains("terminate called"), "rank {rank}: {text}");
    }
    crate::support::processes::wait_until("the end of all workers", || {
        workers.iter().all(|&worker| has_ended(worker))
    });
}

#[test]
fn a_killed_rank_is_named() {
    others_name(1, Signal::KILL, 12.0, "has given no sign of life");
}

/// Rank 0 keeps the store in which all others look.
#[test]
fn a_killed_first_rank_is_named() {
    others_name(0, Signal::KILL, 12.0, "is gone");
}

/// However long silence is put up with: an exchange that fails says at once that somebody is gone.
#[test]
fn a_killed_rank_is_known_long_before_its_silence_tells() {
    let patient = [&ENDLESS[..], &["distributed.timeout_seconds=200"]].concat();
    others_of_run_name(&patient, 1, Signal::KILL, 15.0, "has given no sign of life");
}

#[test]
fn a_hanging_rank_is_named() {
    others_name(2, Signal::STOP, 18.0, "has given no sign of life");
}

#[test]
fn a_hanging_first_rank_is_named() {
    others_name(0, Signal::STOP, 18.0, "has not answered");
}

/// Ranks of which the first one's storage hangs in the evaluation at the end, while the others wait for it: a
/// read that does not come back, as of a network file system whose server is gone.
fn stuck_in_evaluation(size: usize, timeout: &str) -> (Workshop, Ranks) {
    let (workshop, [knn, data]) = labelled();
    let overrides = [&*knn, &*data, timeout, "data.batch_size=2"];
    let ranks = Ranks::start(size, |_| workshop.pretraining_command(&overrides));
    wait_for_steps(&workshop, "pre", 1);
    let pipe = workshop.path("pre/evaluation.json");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    (workshop, ranks)
}

#[test]
fn a_rank_whose_evaluation_hangs_is_named() {
    let (_workshop, ranks) = stuck_in_evaluation(2, "distributed.timeout_seconds=3");
    for finished in ranks.finish(Duration::from_secs(90)) {
        finished.fails(
            1,
            &["rank 0 (", "hangs: it has been evaluating encoders without progress for", "at step"],
        );
    }
}

/// No exchange is under way that could fail, because rank 0 evaluates while the others wait for it, and silence
/// would be put up with for minutes: the system of the killed process says that it is gone.
#[test]
fn a_rank_that_is_gone_is_told_from_a_silent_one() {
    let (workshop, ranks) = stuck_in_evaluation(3, "distributed.timeout_seconds=200");
    wait_until("all exports", || workshop.path("pre/exports").exists());
    std::thread::sleep(Duration::from_secs(6));
    let begun = Instant::now();
    signal(ranks.process(1), Signal::KILL);
    let last = ranks.process(2);
    wait_until("the end of who waits", || has_ended(last));
    let seconds = begun.elapsed().as_secs_f64();
    assert!(seconds < 16.0, "noticed after {seconds:.1} s");
    for (rank, finished) in ranks.finish(Duration::from_secs(40)).into_iter().enumerate() {
        if rank != 1 {
            finished.fails(1, &["rank 1 (", "and its process is gone", "at step "]);
        }
    }
}

/// One rank's own error, here images that are damaged on its node only, is what all end with.
#[test]
fn what_one_rank_meets_all_are_told() {
    let (here, elsewhere) = (Workshop::new(), Workshop::new());
    for shard in 0..2 {
        // Their middles are compared when ranks meet.
        let damaged = |i: u32| {
            let mut bytes = image(shard * 10 + i);
            bytes[..16].fill(0);
            bytes
        };
        let images: Vec<_> = (0..10).map(|i| (format!("{shard}{i}.jpg"), damaged(i))).collect();
        elsewhere.shard(&format!("shards/{shard}.tar"), &images);
    }
    let run = format!("run.dir={:?}", here.path("run"));
    let ranks = Ranks::start(2, |rank| {
        let workshop = if rank == 0 { &here } else { &elsewhere };
        let mut command = workshop.training(&ENDLESS);
        command.args(["--set", &run]);
        command
    });
    let [first, second] = ranks.finish(Duration::from_secs(60)).try_into().ok().unwrap();
    let text = second.stderr.clone();
    second.fails(1, &["data.max_failed_share"]);
    assert!(!text.contains("rank 1"), "{text}");
    first.fails(1, &["rank 1 (", "failed (", "data.max_failed_share"]);
}

/// A loss that is no number: every rank sees it at the same step.
#[test]
fn a_loss_that_is_no_number_ends_all() {
    let workshop = Workshop::new();
    let ranks = Ranks::start(2, |_| {
        workshop.training(&["optimizer.learning_rate=1e30", "optimizer.weight_decay=0"])
    });
    for finished in ranks.finish(Duration::from_secs(60)) {
        assert_eq!(finished.code, Some(1), "{}", finished.stderr);
        assert!(
            finished.stderr.contains("lower optimizer.learning_rate")
                || finished.stderr.contains("Lower optimizer.learning_rate"),
            "{}",
            finished.stderr
        );
    }
}
