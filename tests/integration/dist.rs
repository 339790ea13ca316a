//! Processes that train together, played by threads of this one: libtorch's own Gloo between them.

mod queued;

use std::thread;
use std::time::{Duration, Instant};

use crate::support::processes::free_port;
use anyhow::Result;
use distill::dist::{
    Activity, GradientExchange, ProcessGroup, RankInfo, Rendezvous, require_equal_weights,
};
use distill::native::c10d::ExchangeOptions;
use distill::status;
use tch::{Device, Kind, Tensor};

/// Runs `body` on `size` ranks at once and gives what each returned.
fn ranks<T: Send>(size: usize, body: impl Fn(ProcessGroup) -> Result<T> + Sync) -> Vec<Result<T>> {
    patient_ranks(size, Duration::from_secs(20), body)
}

/// The same, where silence of `timeout` ends all.
fn patient_ranks<T: Send>(
    size: usize,
    timeout: Duration,
    body: impl Fn(ProcessGroup) -> Result<T> + Sync,
) -> Vec<Result<T>> {
    let port = free_port();
    thread::scope(|scope| {
        let handles: Vec<_> = (0..size)
            .map(|rank| {
                let body = &body;
                scope.spawn(move || {
                    let meeting = Duration::from_secs(20);
                    body(join((rank, size), port, meeting, timeout, || false)?)
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

/// Joins a run of one node.
fn join(
    (rank, world_size): (usize, usize),
    port: u16,
    meeting: Duration,
    timeout: Duration,
    stop: fn() -> bool,
) -> Result<ProcessGroup> {
    let host = "127.0.0.1".into();
    let rendezvous = Rendezvous { host, port, hosted_by_launcher: false, attempt: 0 };
    let (local_rank, local_world_size) = (rank, world_size);
    let rank_info = RankInfo { rank, world_size, local_rank, local_world_size, rendezvous };
    ProcessGroup::join(rank_info, Device::Cpu, "run", meeting, timeout, stop)
}

fn options(bfloat16: bool, scatter: bool) -> ExchangeOptions {
    ExchangeOptions { bucket_bytes: 2000, bfloat16, scatter }
}

/// Three matrices and a vector, the same on all ranks.
fn parameters() -> Vec<Tensor> {
    let _guard = tch::no_grad_guard();
    let shapes: [&[i64]; 4] = [&[20, 10], &[30, 20], &[7], &[5, 30]];
    shapes
        .iter()
        .map(|shape| {
            let count: i64 = shape.iter().product();
            let values = Tensor::arange(count, (Kind::Float, Device::Cpu)) * 1e-3;
            values.view(*shape).set_requires_grad(true)
        })
        .collect()
}

/// Something whose gradient depends on all parameters and on the rank.
fn loss(parameters: &[Tensor], rank: usize) -> Tensor {
    let input = Tensor::ones([3, 10], (Kind::Float, Device::Cpu)) * (rank as f64 + 1.0);
    let hidden = input.matmul(&parameters[0].tr()).matmul(&parameters[1].tr()).tanh();
    hidden.matmul(&parameters[3].tr()).sum(Kind::Float) + parameters[2].square().sum(Kind::Float)
}

fn gradients(parameters: &[Tensor]) -> Vec<Vec<f32>> {
    parameters.iter().map(|p| Vec::<f32>::try_from(p.grad().reshape([-1])).unwrap()).collect()
}

fn sum_of_all_ranks(size: usize) -> Vec<Vec<f32>> {
    let parameters = parameters();
    for rank in 0..size {
        loss(&parameters, rank).backward();
    }
    gradients(&parameters)
}

#[track_caller]
fn assert_close(found: &[Vec<f32>], expected: &[Vec<f32>], relative: f32) {
    for (found, expected) in found.iter().zip(expected) {
        let largest = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() <= relative * largest, "{a} is not {b}");
        }
    }
}

/// Every rank ends a backward pass with the sum of all ranks' gradients, and buckets travel before
/// the pass is over.
#[test]
fn gradients_become_the_sum_bucket_by_bucket() {
    for (bfloat16, tolerance) in [(false, 1e-6), (true, 2e-2)] {
        let expected = sum_of_all_ranks(3);
        let found = ranks(3, |group| {
            let parameters = parameters();
            let exchange = GradientExchange::new(&group, &parameters, options(bfloat16, false))?;
            exchange.expect()?;
            loss(&parameters, group.rank()).backward();
            exchange.finish(&group)?;
            let statistics = exchange.statistics();
            assert_eq!((statistics.buckets, statistics.early_buckets), (2, 1));
            let width = if bfloat16 { 2 } else { 4 };
            assert_eq!(statistics.bytes, 957 * width);
            let found = gradients(&parameters);
            group.leave()?;
            Ok(found)
        });
        for found in found {
            assert_close(&found.unwrap(), &expected, tolerance);
        }
    }
}

/// A pass that is not the step's last sends nothing; the last one sends the sum of all passes.
#[test]
fn accumulation_does_not_communicate() {
    let expected = {
        let parameters = parameters();
        for rank in [0, 1, 0, 1] {
            loss(&parameters, rank).backward();
        }
        gradients(&parameters)
    };
    let found = ranks(2, |group| {
        let parameters = parameters();
        let exchange = GradientExchange::new(&group, &parameters, options(false, false))?;
        loss(&parameters, group.rank()).backward();
        assert_eq!(exchange.statistics().buckets, 0);
        exchange.expect()?;
        loss(&parameters, group.rank()).backward();
        exchange.finish(&group)?;
        assert_eq!(exchange.statistics().buckets, 2);
        let found = gradients(&parameters);
        group.leave()?;
        Ok(found)
    });
    for found in found {
        assert_close(&found.unwrap(), &expected, 1e-6);
    }
}

/// Shares cover all weights, those of several ranks only where they do not divide evenly; their
/// gradients are the sums; and what a rank changes in its shares arrives at all.
#[test]
fn shares_are_summed_updated_and_handed_round() {
    let expected = sum_of_all_ranks(3);
    let found = ranks(3, |group| {
        let parameters = parameters();
        let mut exchange = GradientExchange::new(&group, &parameters, options(false, true))?;
        let shares = exchange.divide(&group, &parameters)?.unwrap();
        exchange.expect()?;
        loss(&parameters, group.rank()).backward();
        exchange.finish(&group)?;
        let mut own = Vec::new();
        for share in &shares {
            let flat = parameters[share.parameter].grad().reshape([-1]);
            let length = share.range.end - share.range.start;
            let gradient = flat.narrow(0, share.range.start, length);
            own.push((
                share.parameter,
                share.range.clone(),
                share.common,
                Vec::<f32>::try_from(&gradient)?,
            ));
            tch::no_grad(|| share.weights.shallow_clone().copy_(&gradient));
        }
        exchange.begin_gathering(&group)?;
        exchange.finish_gathering(&group)?;
        require_equal_weights(&group, 1, &named(&parameters))?;
        let weights: Vec<Vec<f32>> = parameters
            .iter()
            .map(|p| Vec::<f32>::try_from(p.detach().reshape([-1])).unwrap())
            .collect();
        group.leave()?;
        Ok((own, weights))
    });
    let mut held = expected.iter().map(|p| vec![0; p.len()]).collect::<Vec<_>>();
    for (own, weights) in found.into_iter().map(Result::unwrap) {
        assert_close(&weights, &expected, 1e-6);
        for (parameter, range, common, gradient) in own {
            let range = range.start as usize..range.end as usize;
            assert_close(&[gradient], &[expected[parameter][range.clone()].to_vec()], 1e-6);
            held[parameter][range]
                .iter_mut()
                .for_each(|holders| *holders += if common { 3 } else { 9 });
        }
    }
    let counts: Vec<i32> = held.into_iter().flatten().collect();
    assert!(counts.iter().all(|&holders| holders == 9), "{counts:?}");
}

fn named(parameters: &[Tensor]) -> Vec<(String, Tensor)> {
    let names = ["first", "second", "third", "fourth"];
    names.iter().zip(parameters).map(|(n, p)| (n.to_string(), p.shallow_clone())).collect()
}

/// One bit of one number on one rank: all ranks end with the name of the tensor and the rank.
#[test]
fn a_difference_of_one_bit_is_found_and_named() {
    let found = ranks(3, |group| {
        let parameters = named(&parameters());
        require_equal_weights(&group, 3, &parameters)?;
        if group.rank() == 1 {
            for tensor in [&parameters[1].1, &parameters[3].1] {
                tch::no_grad(|| {
                    let _ = tensor.view([-1]).get(4).view_dtype(Kind::Int).bitwise_xor_(1i64);
                });
            }
        }
        let found = require_equal_weights(&group, 4, &parameters);
        group.leave()?;
        found
    });
    for found in found {
        let error = format!("{:#}", found.unwrap_err());
        assert!(error.contains("weights of rank 1 are not"), "{error}");
        assert!(error.contains("after step 4: `second` is the first"), "{error}");
    }
}

/// A rank that fails by itself: the others end with its own words, not after the timeout.
#[test]
fn the_others_learn_why_a_rank_failed() {
    let found = ranks(3, |group| {
        group.begin_step(7);
        if group.rank() == 2 {
            let error = anyhow::anyhow!("the loss is NaN");
            group.announce(&error);
            return Err(error);
        }
        group.sum(&Tensor::ones([4], (Kind::Float, Device::Cpu)))
    });
    for found in &found[..2] {
        let error = format!("{:#}", found.as_ref().unwrap_err());
        assert!(error.starts_with("rank 2 ("), "{error}");
        assert!(error.contains("failed (the loss is NaN) at step 7"), "{error}");
    }
}

/// A rank whose training thread gets nowhere, though its process lives, is named together with what
/// it does.
#[test]
fn a_rank_that_gets_nowhere_is_named() {
    let found = patient_ranks(2, Duration::from_secs(2), |group| {
        group.begin_step(5);
        let _computing = group.enter(Activity::Computing);
        if group.rank() == 1 {
            thread::sleep(Duration::from_secs(6));
            return group.check();
        }
        group.sum(&Tensor::ones([4], (Kind::Float, Device::Cpu)))
    });
    for found in &found {
        let error = format!("{:#}", found.as_ref().unwrap_err());
        assert!(error.starts_with("rank 1 ("), "{error}");
        assert!(error.contains("hangs: it has been computing for"), "{error}");
        assert!(error.ends_with("at step 5"), "{error}");
    }
}

/// One rank works alone for longer than the limit, and the other waits for its note.
fn alone(group: ProcessGroup, mut work: impl FnMut()) -> Result<()> {
    group.begin_step(8);
    if group.rank() == 0 {
        let _exporting = group.enter(Activity::Exporting);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(9) {
            group.check_failure()?;
            thread::sleep(Duration::from_millis(100));
            work();
        }
        group.publish("done", b"")?;
    } else {
        group.wait_for("done")?;
    }
    group.leave()
}

/// Export and evaluation keep all others waiting: who makes no progress with them is named, but not
/// after one timeout only.
#[test]
fn a_stalled_export_is_named() {
    let found = patient_ranks(2, Duration::from_secs(2), |group| alone(group, || {}));
    for found in &found {
        let error = format!("{:#}", found.as_ref().unwrap_err());
        assert!(error.starts_with("rank 0 ("), "{error}");
        assert!(
            error.contains("hangs: it has been exporting encoders without progress"),
            "{error}"
        );
        assert!(error.contains("(a limit of 3 times distributed.timeout_seconds)"), "{error}");
        assert!(error.ends_with("at step 8"), "{error}");
    }
}

/// However long it takes: each tensor, batch or part of a file is progress.
#[test]
fn a_slow_export_is_waited_for() {
    let found = patient_ranks(2, Duration::from_secs(2), |group| alone(group, status::beat));
    found.into_iter().for_each(|found| found.unwrap());
}

/// The backward pass does not wait for slower ranks: the next model's work goes on meanwhile.
#[test]
fn a_backward_pass_does_not_wait_for_its_exchange() {
    let late = Duration::from_secs(2);
    let found = ranks(2, |group| {
        let (first, second) = (parameters(), parameters());
        let exchanges = [&first, &second]
            .map(|model| GradientExchange::new(&group, model, options(false, false)).unwrap());
        group.sum(&Tensor::ones([1], (Kind::Float, Device::Cpu)))?;
        let begun = Instant::now();
        if group.rank() == 1 {
            thread::sleep(late);
        }
        for (model, exchange) in [&first, &second].into_iter().zip(&exchanges) {
            exchange.expect()?;
            loss(model, group.rank()).backward();
        }
        let computed = begun.elapsed();
        exchanges.iter().try_for_each(|exchange| exchange.finish(&group).map(drop))?;
        group.leave()?;
        Ok((computed, gradients(&first), gradients(&second)))
    });
    let expected = sum_of_all_ranks(2);
    for (rank, found) in found.into_iter().enumerate() {
        let (computed, first, second) = found.unwrap();
        assert!(rank == 1 || computed < late / 2, "both models took {computed:?}");
        assert_close(&first, &expected, 1e-6);
        assert_close(&second, &expected, 1e-6);
    }
}

/// Who is missing at the start is named.
#[test]
fn missing_ranks_are_named() {
    let second = Duration::from_secs(1);
    let found = join((0, 3), free_port(), second, second, || false);
    let error = format!("{:#}", found.err().unwrap());
    assert!(error.contains("2 of 3 ranks did not come within 1 s: 1, 2"), "{error}");
}
