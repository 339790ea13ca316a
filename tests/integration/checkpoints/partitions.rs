//! Parts and wholes: any partition is read into any other, and what is missing is an error.

use proptest::prelude::*;

use super::*;

/// Cuts `0..count` at these places.
fn cut(count: i64, places: &[i64]) -> Vec<(i64, i64)> {
    let mut ends: Vec<i64> = places.iter().map(|place| place % (count + 1)).collect();
    ends.extend([0, count]);
    ends.sort_unstable();
    ends.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

/// One tensor of `0, 1, 2…`, or elements of it, as the only state of a student.
fn state_of(elements: Option<(i64, i64)>, count: i64) -> TraineeState {
    let options = (Kind::Float, Device::Cpu);
    let tensor = |start, end| Tensor::arange_start(start, end, options);
    let moment = match elements {
        None => whole("moment", tensor(0, count)),
        Some((start, end)) => {
            let part = Some(Part { start, whole: vec![count] });
            StateTensor { name: "moment".into(), tensor: tensor(start, end), part }
        }
    };
    let weights = vec![whole("weight", Tensor::from(1f32))];
    TraineeState { name: "one".into(), weights, optimizer: vec![moment] }
}

/// Saves one part a rank.
fn save_parts(run: &Path, count: i64, parts: &[(i64, i64)]) {
    on_ranks(run, parts.len(), 64, |rank, mut saver| {
        save(&mut saver, 1, vec![state_of(Some(parts[rank]), count)]).unwrap();
        saver.finish(&alive).unwrap();
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever the parts were, overlapping and empty ones included, every other partition gets
    /// its elements exactly.
    #[test]
    fn any_partition_is_read_into_any_other(
        count in 1i64..60,
        saved in prop::collection::vec(0i64..60, 0..6),
        wanted in prop::collection::vec(0i64..60, 0..6),
        twice in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut parts = cut(count, &saved);
        if twice {
            // As small tensors are, which several ranks hold.
            parts.push((parts[0].0, (parts[0].1 + 1).min(count)));
        }
        save_parts(folder.path(), count, &parts);
        let checkpoint = Checkpoint::open(&paths::checkpoint(folder.path(), 1)).unwrap();
        let wanted = cut(count, &wanted).into_iter().map(Some).chain([None]);
        for elements in wanted {
            let found = blank(vec![state_of(elements, count)]);
            checkpoint.fill(&found[0]).unwrap();
            assert_same(&found, &[state_of(elements, count)]);
        }
    }
}

/// Elements that nobody saved are an error that names the tensor and the first of them, and
/// nothing is overwritten then.
#[test]
fn a_gap_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    save_parts(folder.path(), 10, &[(0, 4), (6, 10)]);
    let checkpoint = Checkpoint::open(&paths::checkpoint(folder.path(), 1)).unwrap();
    let target = blank(vec![state_of(None, 10)]);
    let error = format!("{:#}", checkpoint.fill(&target[0]).unwrap_err());
    assert!(error.contains("moment") && error.contains("element 4"), "{error}");
    assert!(target[0].optimizer[0].tensor.equal(&Tensor::full(
        [10],
        -1.0,
        (Kind::Float, Device::Cpu)
    )));
    checkpoint.fill(&state_of(Some((6, 9)), 10)).unwrap();
}

/// A state of another model is refused, whichever way it differs.
#[test]
fn another_state_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    save_parts(folder.path(), 10, &[(0, 5), (5, 10)]);
    let checkpoint = Checkpoint::open(&paths::checkpoint(folder.path(), 1)).unwrap();
    let renamed = |change: &dyn Fn(&mut TraineeState)| {
        let mut state = state_of(None, 10);
        change(&mut state);
        format!("{:#}", checkpoint.fill(&state).unwrap_err())
    };
    for (error, part) in [
        (renamed(&|state| state.name = "two".into()), "no trainee `two`, only `one`"),
        (renamed(&|state| state.optimizer[0].name = "other".into()), "no tensor other"),
        (renamed(&|state| state.optimizer.clear()), "1 tensors, expected 0"),
        (renamed(&|state| *state = state_of(None, 9)), "[10], expected Float [9]"),
        (
            renamed(&|state| {
                let tensor = &mut state.optimizer[0].tensor;
                *tensor = tensor.to_kind(Kind::Double);
            }),
            "Float [10], expected Double [10]",
        ),
    ] {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}
