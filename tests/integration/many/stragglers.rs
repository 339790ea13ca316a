//! A rank that holds up the others is named.

use std::fs;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Ranks, wait_for_steps};
use crate::support::processes::has_ended;
use crate::support::ranks::metrics;
use crate::support::workshop::{Finished, Workshop};

/// Half the time one of two ranks does nothing, as on a node that something else uses.
#[test]
fn a_slow_rank_is_named() {
    let workshop = Workshop::new();
    let overrides = [
        "schedule.epochs=1",
        "schedule.warmup_epochs=0",
        "schedule.steps_per_epoch=400",
        "checkpoint.every=1000",
        "distributed.timeout_seconds=10",
    ];
    let ranks = Ranks::start(2, |_| workshop.training(&overrides));
    wait_for_steps(&workshop, "run", 1);
    let number = ranks.process(1);
    let slow = Pid::from_raw(number as i32).unwrap();
    let holding_up = thread::spawn(move || {
        while !has_ended(number) {
            for signal in [Signal::STOP, Signal::CONT] {
                // It may have ended since.
                let _ = kill_process(slow, signal);
                thread::sleep(Duration::from_millis(40));
            }
        }
    });
    let finished = ranks.finish(Duration::from_secs(120));
    holding_up.join().unwrap();
    let told = &finished[0].stderr;
    assert!(told.contains("straggler: rank 1 ("), "{told}");
    finished.into_iter().for_each(|one| _ = one.succeeds());
    let lines = metrics(&workshop, "run");
    let slowest: Vec<_> = lines.iter().filter_map(|line| line.get("slowest_rank")).collect();
    assert!(!slowest.is_empty() && slowest.len() <= 4, "{slowest:?}");
    for one in &slowest {
        assert_eq!(one["rank"], 1, "{one}");
        assert!(one["steps"].as_u64().unwrap() >= 100, "{one}");
        assert!(one["seconds"].as_f64().unwrap() > one["median_seconds"].as_f64().unwrap());
    }
    let report = workshop.command(&["report", "--run", "run"]).output().unwrap();
    Finished::of(report).succeeds();
    let page = fs::read_to_string(workshop.path("run/report.html")).unwrap();
    assert!(page.contains("Stragglers") && page.contains("slower than the median"));
}
