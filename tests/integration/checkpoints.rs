//! Checkpoints of several ranks, which are threads here: written together, read by any number.

mod faults;
mod kills;
mod kv_store;
mod partitions;

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use distill::artifacts::{Stream, paths};
use distill::config::ShuffleConfig;
use distill::train::checkpoint::{Checkpoint, Part, Saver, Snapshot, StateTensor, TraineeState};
use tch::{Device, Kind, Tensor};

use kv_store::SharedStore;

/// Shapes of two trainees' weights: one tensor outweighs most others, some are tiny.
const SHAPES: [(&str, &[i64]); 6] = [
    ("blocks.0.weight", &[30, 40]),
    ("blocks.0.bias", &[30]),
    ("blocks.1.weight", &[17, 13]),
    ("pos_embed", &[1, 5, 7]),
    ("scale", &[]),
    ("norm", &[3]),
];

fn stream() -> Stream {
    let shuffle = ShuffleConfig::default();
    Stream { seed: 1, dataset: "images".into(), shuffle, global_batch_size: 8 }
}

/// Nothing has failed.
fn alive() -> Result<()> {
    Ok(())
}

fn whole(name: &str, tensor: Tensor) -> StateTensor {
    StateTensor { name: name.into(), tensor, part: None }
}

/// A tensor of numbers that nothing else has.
fn numbers(student: usize, index: usize, shape: &[i64]) -> Tensor {
    let count: i64 = shape.iter().product();
    let first = (student * 100_000 + index * 10_000) as f64;
    let options = (Kind::Float, Device::Cpu);
    (Tensor::arange(count, options) + first).view(shape)
}

/// How `rank` of `world_size` holds a tensor of the optimizer's state: whole, or cut evenly, as
/// ZeRO does it. The smallest are held by all.
fn part_of(name: &str, tensor: &Tensor, rank: usize, world_size: usize) -> StateTensor {
    let (rank, world_size) = (rank as i64, world_size as i64);
    let count = tensor.numel() as i64;
    let (start, end) = match count {
        0..=3 => (0, count),
        _ => (rank * count / world_size, (rank + 1) * count / world_size),
    };
    let tensor_part = tensor.flatten(0, -1).narrow(0, start, end - start).copy();
    let part = Some(Part { start, whole: tensor.size() });
    StateTensor { name: name.into(), tensor: tensor_part, part }
}

/// What `rank` holds of both trainees: weights whole, moments whole or `sharded`.
fn states(rank: usize, world_size: usize, sharded: bool) -> Vec<TraineeState> {
    let student = |student: usize| {
        let tensors = || {
            let tensors = SHAPES.iter().enumerate();
            tensors.map(move |(index, (name, shape))| (*name, numbers(student, index, shape)))
        };
        let mut optimizer = vec![whole("updates", Tensor::from(7f64))];
        optimizer.extend(tensors().map(|(name, tensor)| match sharded {
            true => part_of(name, &-tensor, rank, world_size),
            false => whole(name, -tensor),
        }));
        let weights = tensors().map(|(name, tensor)| whole(name, tensor)).collect();
        TraineeState { name: format!("student-{student}"), weights, optimizer }
    };
    (0..2).map(student).collect()
}

/// The same tensors with other contents.
fn blank(states: Vec<TraineeState>) -> Vec<TraineeState> {
    for state in &states {
        for tensor in state.weights.iter().chain(&state.optimizer) {
            let _ = tensor.tensor.shallow_clone().fill_(-1.0);
        }
    }
    states
}

fn assert_same(found: &[TraineeState], expected: &[TraineeState]) {
    for (found, expected) in found.iter().zip(expected) {
        let tensors = |state: &TraineeState| {
            let all = state.weights.iter().chain(&state.optimizer);
            all.map(|state| (state.name.clone(), state.tensor.shallow_clone())).collect::<Vec<_>>()
        };
        for ((name, found), (_, expected)) in tensors(found).iter().zip(tensors(expected)) {
            assert!(found.equal(&expected), "{name} has other numbers");
        }
    }
}

/// Runs `work` on so many ranks at once, each with its saver; returns what each says.
fn on_ranks<T: Send>(
    run: &Path,
    world_size: usize,
    writers: usize,
    work: impl Fn(usize, Saver) -> T + Sync,
) -> Vec<T> {
    let stores = SharedStore::of(world_size);
    std::thread::scope(|scope| {
        let work = &work;
        let rank = |(rank, store)| {
            let saver = Saver::new(run, 2, Arc::new(store), writers);
            scope.spawn(move || work(rank, saver))
        };
        let ranks: Vec<_> = stores.into_iter().enumerate().map(rank).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn save(saver: &mut Saver, step: u64, trainees: Vec<TraineeState>) -> Result<()> {
    let snapshot = Snapshot { step, position: step * 8, stream: &stream(), trainees };
    saver.save(&snapshot, &alive)?.wait(&alive)
}

/// The names of the files of a checkpoint, in order.
fn files(run: &Path, step: u64) -> Vec<String> {
    let entries = std::fs::read_dir(paths::checkpoint(run, step)).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What 4 ranks save together, any number of ranks reads: the same bits, whether the moments were
/// whole or in parts, and whether they are wanted whole or in other parts.
#[test]
fn four_ranks_write_and_any_number_reads() {
    for saved_sharded in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let saved = on_ranks(folder.path(), 4, 64, |rank, mut saver| {
            for step in [3, 5, 8] {
                save(&mut saver, step, states(rank, 4, saved_sharded)).unwrap();
            }
            saver.finish(&alive).unwrap();
            saver.last().unwrap()
        });
        let bytes = |name: &String| {
            paths::checkpoint(folder.path(), 8).join(name).metadata().unwrap().len()
        };
        let names = files(folder.path(), 8);
        let tensors = names.iter().filter(|name| name.ends_with(".safetensors"));
        let all: u64 = tensors.map(bytes).sum();
        assert!(saved.iter().all(|saved| (saved.step, saved.bytes) == (8, all)), "{saved:?}");
        let shares = if saved_sharded { 4 } else { 3 };
        let last = format!("student-0.optimizer-{shares:05}-of-{shares:05}.safetensors");
        assert!(names.contains(&last), "{names:?}");
        assert!(!paths::checkpoint(folder.path(), 3).exists(), "only the newest two are kept");
        let checkpoint = Checkpoint::open(&paths::checkpoint(folder.path(), 8)).unwrap();
        assert_eq!((checkpoint.manifest.step, checkpoint.manifest.position), (8, 64));
        for world_size in 1..=4 {
            for sharded in [false, true] {
                for rank in 0..world_size {
                    let found = blank(states(rank, world_size, sharded));
                    found.iter().for_each(|state| checkpoint.fill(state).unwrap());
                    assert_same(&found, &states(rank, world_size, sharded));
                }
            }
        }
    }
}

/// Training changes the state as soon as it is copied, while it is written: that is not in the checkpoint, nor
/// in later ones, whose copies are made in the same memory.
#[test]
fn what_is_saved_is_the_state_before_it_may_change() {
    let folder = tempfile::tempdir().unwrap();
    on_ranks(folder.path(), 2, 64, |rank, mut saver| {
        for step in 1..=5 {
            let states = states(rank, 2, true);
            let shared =
                states.iter().flat_map(|state| state.weights.iter().chain(&state.optimizer));
            let shared: Vec<_> = shared.map(|state| state.tensor.shallow_clone()).collect();
            save(&mut saver, step, states).unwrap();
            for mut tensor in shared {
                let _ = tensor.fill_(-1.0);
            }
        }
        saver.finish(&alive).unwrap();
    });
    let checkpoint = Checkpoint::open(&paths::checkpoint(folder.path(), 5)).unwrap();
    let found = blank(states(0, 1, false));
    found.iter().for_each(|state| checkpoint.fill(state).unwrap());
    assert_same(&found, &states(0, 1, false));
}

/// With fewer writers than ranks, what all hold alike is in at most as many files; one writer's
/// files have the names that one process gives them.
#[test]
fn writers_bound_the_number_of_files() {
    for writers in 1..=3 {
        let folder = tempfile::tempdir().unwrap();
        on_ranks(folder.path(), 4, writers, |rank, mut saver| {
            save(&mut saver, 1, states(rank, 4, false)).unwrap();
            saver.finish(&alive).unwrap();
        });
        let names = files(folder.path(), 1);
        for stem in ["student-0", "student-0.optimizer", "student-1", "student-1.optimizer"] {
            let of_stem = |name: &&String| {
                let rest = name.strip_prefix(stem);
                rest.is_some_and(|rest| rest.starts_with('-') || rest == ".safetensors")
            };
            let count = names.iter().filter(of_stem).count();
            assert!((1..=writers).contains(&count), "{writers} writers: {names:?}");
        }
        assert_eq!(names.len() == 5, writers == 1, "{writers} writers: {names:?}");
    }
}

/// Every share's checksum is held against it, and no share may be missing.
#[test]
fn damage_to_any_share_is_found() {
    let folder = tempfile::tempdir().unwrap();
    on_ranks(folder.path(), 2, 64, |rank, mut saver| {
        save(&mut saver, 1, states(rank, 2, true)).unwrap();
        saver.finish(&alive).unwrap();
    });
    let step = paths::checkpoint(folder.path(), 1);
    for name in files(folder.path(), 1).iter().filter(|name| name.ends_with(".safetensors")) {
        let path = step.join(name);
        let bytes = std::fs::read(&path).unwrap();
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let error = format!("{:#}", Checkpoint::open(&step).err().unwrap());
        assert!(error.contains(name.as_str()) && error.contains("checksum"), "{error}");
        std::fs::remove_file(&path).unwrap();
        let error = format!("{:#}", Checkpoint::open(&step).err().unwrap());
        assert!(error.contains(name.as_str()) && error.contains("missing"), "{error}");
        std::fs::write(&path, &bytes).unwrap();
    }
    Checkpoint::open(&step).unwrap();
}
