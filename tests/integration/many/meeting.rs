//! What ranks must have in common is compared before the first step.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use super::Ranks;
use crate::support::processes::{signal, wait_until};
use crate::support::workshop::Workshop;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn ranks_with_other_configurations_are_refused() {
    let workshop = Workshop::new();
    let ranks =
        Ranks::start(2, |rank| workshop.training(if rank == 1 { &["seed=1"] } else { &[] }));
    let [first, second] = ranks.finish(PATIENCE).try_into().ok().unwrap();
    second.fails(2, &["all ranks must have the same configuration", "`seed = 1`", "`seed = 0`"]);
    first.fails(2, &["rank 1 (", "same configuration"]);
}

/// Rank 0 is late, for longer than a request to the store may take: it opens what it evaluates, or its
/// node reads weights from a cold disk. The others wait for it.
#[test]
fn a_late_first_rank_is_waited_for() {
    let workshop = Workshop::new();
    let ranks = Ranks::start(2, |_| workshop.training(&["distributed.timeout_seconds=60"]));
    wait_until("all have met", || workshop.path("run/config.toml").exists());
    signal(ranks.process(0), Signal::STOP);
    std::thread::sleep(Duration::from_secs(13));
    signal(ranks.process(0), Signal::CONT);
    for finished in ranks.finish(Duration::from_secs(60)) {
        finished.succeeds();
    }
}

/// Ranks started in folders of their own do not share a run directory.
#[test]
fn a_run_directory_that_is_not_shared_is_refused() {
    let (here, elsewhere) = (Workshop::new(), Workshop::new());
    let ranks =
        Ranks::start(
            2,
            |rank| if rank == 0 { here.training(&[]) } else { elsewhere.training(&[]) },
        );
    let [first, second] = ranks.finish(PATIENCE).try_into().ok().unwrap();
    second.fails(1, &["rank 1 does not see what rank 0 wrote", "run.dir must lie on storage"]);
    first.fails(1, &["rank 1 (", "run.dir must lie on storage"]);
}

#[test]
fn another_data_set_is_refused() {
    let (here, elsewhere) = (Workshop::new(), Workshop::new());
    fs::remove_file(elsewhere.path("shards/1.tar")).unwrap();
    let run = format!("run.dir={:?}", here.path("run"));
    let ranks = Ranks::start(2, |rank| {
        if rank == 0 { here.training(&[&run]) } else { elsewhere.training(&[&run]) }
    });
    let [first, second] = ranks.finish(PATIENCE).try_into().ok().unwrap();
    second.fails(1, &["rank 1 does not see the data set of rank 0", "data.shards"]);
    first.fails(1, &["data.shards"]);
}

/// Weights that are not the same on all nodes are found before the first step, by name.
#[test]
fn other_weights_are_refused() {
    let (here, elsewhere) = (Workshop::new(), Workshop::new());
    for (workshop, seed) in [(&here, "seed=1"), (&elsewhere, "seed=2")] {
        let overrides = ["run.dir=origin", "schedule.epochs=1", "export.formats=[\"pixio\"]", seed];
        workshop.train(&overrides).succeeds();
        let exported = workshop.path("origin/exports/one");
        let file = fs::read_dir(exported)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|e| e == "safetensors"))
            .unwrap();
        fs::copy(file, workshop.path("start.safetensors")).unwrap();
    }
    let run = format!("run.dir={:?}", here.path("run"));
    let shards = format!("data.shards=[{:?}]", here.path("shards/*.tar"));
    let overrides = [&*run, &*shards, "students.0.weights=start.safetensors"];
    let ranks = Ranks::start(2, |rank| {
        if rank == 0 { here.training(&overrides) } else { elsewhere.training(&overrides) }
    });
    for finished in ranks.finish(PATIENCE) {
        finished.fails(1, &["the weights of ranks 0 and 1 differ after step 0", "`one/"]);
    }
}

/// More ranks than images in a step.
#[test]
fn every_rank_needs_a_image() {
    let workshop = Workshop::new();
    let ranks = Ranks::start(3, |_| workshop.training(&["data.global_batch_size=2"]));
    let finished = ranks.finish(PATIENCE);
    for finished in finished {
        finished.fails(2, &["data.global_batch_size", "found 2", "each of 3 ranks"]);
    }
}

/// A launcher's variables that contradict are an error of usage.
#[test]
fn contradicting_variables_are_refused() {
    let workshop = Workshop::new();
    let mut command = workshop.training(&[]);
    command
        .env("RANK", "2")
        .env("WORLD_SIZE", "2")
        .env("LOCAL_RANK", "0")
        .env("LOCAL_WORLD_SIZE", "2");
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", "1");
    let finished = crate::support::workshop::Finished::of(command.output().unwrap());
    finished.fails(2, &["RANK", "WORLD_SIZE", "`2`"]);
}
