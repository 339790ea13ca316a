//! Worker processes: killed at any time they change nothing, and nothing of them is left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use distill::config::DataConfig;
use distill::data::{Dataset, Loader, RankBatches};
use distill::draws::{Draws, Purpose};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::processes::{children, kill, status, wait_until};
use crate::support::shards::{config, jpeg, open, start, write_tar};
use crate::support::workshop::slow_images;

fn wait_for_workers(trainer: &Child, count: usize) -> Vec<u32> {
    // A child has its parent's name until it runs its own program.
    let is_worker = |&child: &u32| status(child).is_some_and(|(name, ..)| name == "distill-worker");
    let workers = || children(trainer.id()).into_iter().filter(is_worker).collect::<Vec<u32>>();
    wait_until("workers run", || workers().len() == count);
    assert_eq!(children(trainer.id()).len(), count, "children that are no workers");
    workers()
}

fn assert_gone(workers: &[u32]) {
    // A process that has ended waits for its new parent to notice, which is not our matter.
    let gone = |worker: &u32| status(*worker).is_none_or(|(_, state, _)| state == 'Z');
    wait_until("workers are gone", || workers.iter().all(gone));
}

/// Workers killed at random times, again and again: the weights after the run are those of a run
/// that nobody disturbed, bit for bit.
#[test]
fn killing_workers_changes_no_weight() {
    let workshop = slow_images();
    let long = ["schedule.epochs=20", "checkpoint.every=40", "run.threads=1"];
    workshop.train(&[&long[..], &["run.dir=quiet"]].concat()).succeeds();
    for attempt in 0..3 {
        let run = format!("run.dir=disturbed{attempt}");
        let mut trainer = workshop.start(&[&long[..], &[&run]].concat());
        let mut draws = Draws::new(1, Purpose::Sample, 0, attempt);
        let mut kills = 0;
        while trainer.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(draws.below(40)));
            let workers = children(trainer.id());
            if !workers.is_empty() {
                kill(workers[draws.below(workers.len() as u64) as usize]);
                kills += 1;
            }
        }
        assert!(trainer.wait().unwrap().success());
        assert!(kills >= 15, "only {kills} kills in attempt {attempt}");
        assert_eq!(
            workshop.checkpoint("quiet", 40),
            workshop.checkpoint(&format!("disturbed{attempt}"), 40),
            "after {kills} kills"
        );
    }
}

/// All pixels and labels that come out of a loader.
fn everything(loader: &mut Loader) -> Vec<(Vec<u8>, Vec<Option<u32>>)> {
    let next = || loader.next_batch().unwrap();
    std::iter::from_fn(next).map(|batch| (batch.images().to_vec(), batch.labels.clone())).collect()
}

/// The same at the loader, with many seeds and numbers of workers and a killer that never rests:
/// every batch is what it would have been.
#[test]
fn batches_are_the_same_whoever_dies() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..40).map(|i| format!("{i:02}.jpg")).collect();
    let mut members: Vec<_> =
        names.iter().zip(0u8..).map(|(name, red)| (name.as_str(), jpeg(red * 5))).collect();
    members.push(("bad.jpg", vec![9; 100]));
    write_tar(&folder.path().join("a.tar"), &members);
    let mut config = config(&[&folder.path().join("*.tar")]);
    config.batch_size = 16;
    for seed in 0..8u64 {
        config.workers = [1, 2, 5, 16][seed as usize % 4];
        let batches = || {
            let batches = RankBatches {
                positions: 0..320,
                global_batch: 32,
                batch: 16,
                rank: 0,
                world_size: 1,
            };
            batches.ranges()
        };
        let dataset = || Arc::new(open(&config, seed).unwrap());
        let expected = everything(&mut start(dataset(), &config, batches()));
        assert_eq!(expected.len(), 20);
        let mut loader = start(dataset(), &config, batches());
        let mut draws = Draws::new(seed, Purpose::Sample, 1, 0);
        let mut found = Vec::new();
        loop {
            let workers = loader.statistics().workers;
            kill(workers[draws.below(workers.len() as u64) as usize]);
            let Some(batch) = loader.next_batch().unwrap() else { break };
            found.push((batch.images().to_vec(), batch.labels.clone()));
        }
        assert!(found == expected, "seed {seed}");
    }
}

/// What stands at each position when `world_size` processes with `workers` workers each go through
/// three steps of 24 samples, from the second step on.
fn stream(dataset: &Arc<Dataset>, config: &DataConfig, world_size: u64) -> Vec<(u64, Vec<u8>)> {
    let mut seen = Vec::new();
    for rank in 0..world_size {
        let positions = 24..96;
        let batches = RankBatches { positions, global_batch: 24, batch: 5, rank, world_size };
        let mut loader = start(dataset.clone(), config, batches.ranges());
        while let Some(batch) = loader.next_batch().unwrap() {
            let pixels = batch.images().chunks(dataset.sample_bytes()).map(<[u8]>::to_vec);
            seen.extend(batch.positions.clone().zip(pixels));
        }
    }
    seen.sort();
    seen
}

/// The global stream, pixels and all, is the same for 1, 2, 3 and 8 processes with 1 to 16 workers
/// each, for many seeds and shuffles.
#[test]
fn the_stream_is_the_same_for_any_number_of_processes_and_workers() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..50).map(|i| format!("{i:02}.jpg")).collect();
    let mut members: Vec<_> =
        names.iter().zip(0u8..).map(|(name, red)| (name.as_str(), jpeg(red * 5))).collect();
    members.insert(20, ("bad.jpg", vec![9; 100]));
    write_tar(&folder.path().join("a.tar"), &members);
    let mut config = config(&[&folder.path().join("*.tar")]);
    config.batch_size = 5;
    for seed in 0..6 {
        config.shuffle.chunk_samples = 4 * (seed + 1);
        config.shuffle.window_chunks = seed + 1;
        config.shuffle.lane_run = 2;
        config.shuffle.lanes = 1 + seed % 3;
        let dataset = Arc::new(open(&config, seed).unwrap());
        config.workers = 1;
        let expected = stream(&dataset, &config, 1);
        assert_eq!(expected.len(), 72);
        for (world_size, workers) in [(1, 16), (2, 3), (3, 7), (8, 2), (8, 16)] {
            config.workers = workers;
            let found = stream(&dataset, &config, world_size);
            assert!(found == expected, "seed {seed}, {world_size} processes, {workers} workers");
        }
    }
}

/// However a run ends, its workers end too, and no shared memory stays: finished, stopped by a
/// signal, failed, or killed without a chance to clean up.
#[test]
fn nothing_is_left_of_any_run() {
    let shared_memory = || fs::read_dir("/dev/shm").map_or(0, Iterator::count);
    let before = shared_memory();
    for signal in [Signal::KILL, Signal::TERM, Signal::INT] {
        let workshop = slow_images();
        let mut trainer = workshop.start(&["schedule.epochs=10000", "data.workers=3"]);
        let workers = wait_for_workers(&trainer, 3);
        kill_process(Pid::from_child(&trainer), signal).unwrap();
        trainer.wait().unwrap();
        assert_gone(&workers);
    }
    let workshop = slow_images();
    let mut trainer = workshop.start(&["schedule.epochs=2"]);
    let workers = wait_for_workers(&trainer, 2);
    assert!(trainer.wait().unwrap().success());
    assert_gone(&workers);
    let mut trainer =
        workshop.start(&["run.dir=failed", "optimizer.learning_rate=1e30", "schedule.epochs=100"]);
    let workers = wait_for_workers(&trainer, 2);
    assert_eq!(trainer.wait().unwrap().code(), Some(1));
    assert_gone(&workers);
    assert_eq!(shared_memory(), before, "nothing new in /dev/shm");
}

/// Signals that a terminal or a scheduler sends to every process of a run do not end workers
/// behind the trainer's back, and a replaced worker leaves no zombie.
#[test]
fn workers_leave_signals_to_the_trainer_and_are_reaped() {
    let workshop = slow_images();
    let mut trainer = workshop.start(&["schedule.epochs=10000"]);
    let workers = wait_for_workers(&trainer, 2);
    std::thread::sleep(Duration::from_millis(200)); // they install their handlers first
    for &worker in &workers {
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            kill_process(Pid::from_raw(worker as i32).unwrap(), signal).unwrap();
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(children(trainer.id()), workers, "they work on");
    kill(workers[0]);
    wait_until("a killed worker is replaced and reaped", || {
        let now = children(trainer.id());
        now.len() == 2 && !now.contains(&workers[0]) && status(workers[0]).is_none()
    });
    kill(trainer.id());
    trainer.wait().unwrap();
}

/// When no data come any more (here because the workers are stopped), a signal still ends the run
/// soon, with its state saved and nothing left behind.
#[test]
fn a_run_without_data_still_saves_its_state() {
    let workshop = slow_images();
    let mut trainer = workshop.start(&["schedule.epochs=10000", "checkpoint.every=100000"]);
    let workers = wait_for_workers(&trainer, 2);
    wait_until("a step is done", || {
        let metrics = fs::read_to_string(workshop.path("run/metrics.jsonl"));
        metrics.is_ok_and(|text| text.lines().count() >= 1)
    });
    for &worker in &workers {
        kill_process(Pid::from_raw(worker as i32).unwrap(), Signal::STOP).unwrap();
    }
    std::thread::sleep(Duration::from_millis(500)); // what is ready is trained on
    let start = Instant::now();
    kill_process(Pid::from_child(&trainer), Signal::TERM).unwrap();
    assert_eq!(trainer.wait().unwrap().code(), Some(75));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_gone(&workers);
    assert_eq!(workshop.checkpoints("run").len(), 1);
}

/// A trainer that takes no batch stops its workers: memory is bounded by slots × batch.
#[test]
fn a_slow_trainer_stops_the_workers() {
    let folder = tempfile::tempdir().unwrap();
    write_tar(&folder.path().join("a.tar"), &[("a.jpg", jpeg(1)), ("b.jpg", jpeg(2))]);
    let mut config = config(&[&folder.path().join("a.tar")]);
    (config.batch_size, config.prefetch_batches) = (4, 3);
    let dataset = Arc::new(open(&config, 0).unwrap());
    let endless = (0u64..).map(|number| number * 4..(number + 1) * 4);
    let mut loader = start(dataset.clone(), &config, endless);
    let tried = |dataset: &Dataset| dataset.failure_counts().tried;
    wait_until("all slots but one are filled", || tried(&dataset) == 12);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(tried(&dataset), 12);
    let held = loader.next_batch().unwrap().unwrap();
    wait_until("one more batch is made", || tried(&dataset) == 16);
    let second = loader.next_batch().unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(tried(&dataset), 16, "no slot is free while two batches are held");
    let _third = (loader.next_batch().unwrap().unwrap(), loader.next_batch().unwrap().unwrap());
    let error = loader.next_batch().err().unwrap().to_string();
    assert!(error.contains("still held"), "{error}");
    drop((held, second));
}

/// Programs that stand in for the worker: the run ends with what is wrong, and never hangs.
#[test]
fn workers_that_cannot_work_end_the_run_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    write_tar(&folder.path().join("a.tar"), &[("a.jpg", jpeg(1)), ("b.jpg", jpeg(2))]);
    let mut config = config(&[&folder.path().join("a.tar")]);
    (config.batch_size, config.max_failed_share) = (4, 0.1);
    for (script, expected) in [
        ("kill -SEGV $$", "the decoder was ended by signal 11"),
        ("head -c 1 >/dev/null; exit 101", "the decoder ended with code 101"),
        ("exit 1", "ended after an error"),
        ("kill -KILL $$", "out of memory"),
    ] {
        let program = folder.path().join("worker");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let dataset = Arc::new(open(&config, 0).unwrap());
        let ranges = (0u64..3).map(|number| number * 4..(number + 1) * 4);
        let mut loader = Loader::start(dataset, &config, &program, ranges).unwrap();
        let error = format!("{:#}", loader.next_batch().err().unwrap());
        assert!(error.contains(expected), "{script}: {error}");
    }
    let dataset = Arc::new(open(&config, 0).unwrap());
    let nowhere = Path::new("/nowhere/distill-worker");
    let error = Loader::start(dataset, &config, nowhere, std::iter::empty()).err().unwrap();
    assert!(format!("{error:#}").contains("/nowhere/distill-worker"), "{error:#}");
}

/// An image that crashes its worker takes nobody else with it: the blame falls on it alone, however
/// many jobs and replies were on their way.
#[test]
fn only_the_image_that_crashes_the_worker_counts_as_bad() {
    let folder = tempfile::tempdir().unwrap();
    write_tar(&folder.path().join("a.tar"), &[("a.jpg", jpeg(1)), ("b.jpg", jpeg(2))]);
    let mut config = config(&[&folder.path().join("a.tar")]);
    (config.batch_size, config.max_failed_share, config.workers) = (16, 1.0, 1);
    let python = std::env::var("DISTILL_TEST_PYTHON").expect("scripts/test sets it");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/crashing_worker.py");
    let (program, log) = (folder.path().join("worker"), folder.path().join("log"));
    let command = format!("exec '{python}' '{}' '{}'", script.display(), log.display());
    fs::write(&program, format!("#!/bin/sh\n{command}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let dataset = Arc::new(open(&config, 0).unwrap());
    let batch = std::iter::once(0..16);
    let mut loader = Loader::start(dataset, &config, &program, batch).unwrap();
    assert_eq!(loader.next_batch().unwrap().unwrap().labels.len(), 16);
    let mut jobs = std::collections::BTreeMap::<u64, std::collections::HashSet<String>>::new();
    for line in fs::read_to_string(log).unwrap().lines() {
        let (position, job) = line.split_once(' ').unwrap();
        jobs.entry(position.parse().unwrap()).or_default().insert(job.to_string());
    }
    let images: Vec<usize> = jobs.values().map(|jobs| jobs.len()).collect();
    assert_eq!(images, [1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], "images tried");
}

/// The worker program loads no libtorch: it starts at once and takes little memory.
#[test]
fn the_worker_does_not_load_libtorch() {
    let program = fs::read(env!("CARGO_BIN_EXE_distill-worker")).unwrap();
    let holds = |name: &[u8]| program.windows(name.len()).any(|part| part == name);
    assert!(holds(b"libc.so.6") && !holds(b"libtorch"), "it needs libtorch");
}
