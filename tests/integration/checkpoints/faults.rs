//! Ranks that fail or never come while a checkpoint is saved.

use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::bail;
use distill::train::checkpoint;

use super::*;

/// If one rank cannot write, nobody publishes, every rank tells which one and why, and the
/// checkpoint before stays the newest.
#[test]
fn one_failure_is_everybodys() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    let errors = on_ranks(run, 4, 64, |rank, mut saver| {
        save(&mut saver, 1, states(rank, 4, true)).unwrap();
        saver.finish(&alive).unwrap();
        // A folder in the way of one file plays a disk that fails.
        let blocked = run.join("checkpoints/.step-2.partial/student-1.optimizer.of-rank-2");
        if rank == 2 {
            fs::create_dir_all(blocked).unwrap();
        }
        save(&mut saver, 2, states(rank, 4, true)).unwrap();
        format!("{:#}", saver.finish(&alive).unwrap_err())
    });
    for error in errors {
        for part in ["step-2", "rank 2: ", "student-1.optimizer", "step 1 stays", "free space"] {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
    assert!(!paths::checkpoint(run, 2).exists());
    let newest = checkpoint::newest(run).unwrap().unwrap();
    assert_eq!(newest.manifest.step, 1);
    checkpoint::remove_partial(run).unwrap();
    assert_eq!(fs::read_dir(run.join("checkpoints")).unwrap().count(), 1);
}

/// The loop is told of a failure at its next step, once.
#[test]
fn a_failure_is_told_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("checkpoints"), "no folder").unwrap();
    on_ranks(folder.path(), 2, 64, |rank, mut saver| {
        save(&mut saver, 1, states(rank, 2, false)).unwrap();
        let started = Instant::now();
        let error = loop {
            match saver.check() {
                Ok(()) => assert!(started.elapsed() < Duration::from_secs(60)),
                Err(error) => break format!("{error:#}"),
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        assert!(error.contains("step-1") && error.contains("rank "), "{error}");
        saver.check().unwrap();
        saver.finish(&alive).unwrap();
    });
}

/// When a rank never writes, the others' waiting ends with what is known of it, and so does the
/// thread behind it; nothing is published.
#[test]
fn a_rank_that_never_writes_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let errors = on_ranks(folder.path(), 3, 64, |rank, mut saver| {
        if rank == 1 {
            return None;
        }
        save(&mut saver, 1, states(rank, 3, false)).unwrap();
        let dead = || match started.elapsed() > Duration::from_millis(500) {
            true => bail!("rank 1 has died"),
            false => Ok(()),
        };
        let by_finish = format!("{:#}", saver.finish(&dead).unwrap_err());
        let trainees = states(rank, 3, false);
        let snapshot = Snapshot { step: 2, position: 16, stream: &stream(), trainees };
        let by_save = format!("{:#}", saver.save(&snapshot, &dead).unwrap_err());
        Some([by_finish, by_save])
    });
    let told = errors.into_iter().flatten().flatten().collect::<Vec<_>>();
    assert_eq!(told, ["rank 1 has died"; 4]);
    assert!(started.elapsed() < Duration::from_secs(10), "dropping a saver ends its waiting");
    assert!(!paths::checkpoint(folder.path(), 1).exists());
}

/// Notes do not pile up: after many saves there is one left, which says how the last one ended.
#[test]
fn notes_are_taken_down() {
    let folder = tempfile::tempdir().unwrap();
    let stores = SharedStore::of(3);
    let keys = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (rank, store) in stores.into_iter().enumerate() {
            let (store, keys, run) = (Arc::new(store), &keys, folder.path());
            scope.spawn(move || {
                let mut saver = Saver::new(run, 1, store.clone(), 64);
                for step in 1..=4 {
                    save(&mut saver, step, states(rank, 3, false)).unwrap();
                }
                saver.finish(&alive).unwrap();
                keys.lock().unwrap().extend((rank == 0).then(|| store.keys()));
            });
        }
    });
    assert_eq!(keys.into_inner().unwrap(), [["checkpoint/step-4/outcome"]]);
}
