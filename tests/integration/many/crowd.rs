//! More ranks than any other test has, each with one thread.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Ranks, wait_for_steps};
use crate::support::processes::{has_ended, signal, wait_until};
use crate::support::workshop::Workshop;

const RANKS: usize = 64;
const VICTIM: usize = 41;

/// All meet within a minute and take steps; when one is killed, all others end within half a minute with its
/// name.
#[test]
fn sixty_four_ranks_meet_and_lose_one() {
    let workshop = Workshop::new();
    let overrides = [
        "data.global_batch_size=64",
        "data.workers=1",
        "schedule.epochs=100000",
        "checkpoint.every=100000",
    ];
    let begun = Instant::now();
    let ranks = Ranks::start(RANKS, |_| workshop.training(&overrides));
    while !workshop.path("run/config.toml").exists() && begun.elapsed().as_secs() < 60 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let met = begun.elapsed().as_secs_f64();
    wait_for_steps(&workshop, "run", 3);
    let killed = Instant::now();
    signal(ranks.process(VICTIM), Signal::KILL);
    wait_until("the end of all", || (0..RANKS).all(|rank| has_ended(ranks.process(rank))));
    let noticed = killed.elapsed().as_secs_f64();
    println!("met within {met:.1} s, ended within {noticed:.1} s");
    assert!(met < 60.0, "all met within {met:.1} s");
    assert!(noticed < 30.0, "all ended within {noticed:.1} s");
    for (rank, finished) in ranks.finish(Duration::from_secs(10)).into_iter().enumerate() {
        if rank != VICTIM {
            finished.fails(1, &[&format!("rank {VICTIM} ("), "at step "]);
        }
    }
}
