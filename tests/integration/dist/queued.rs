//! Collectives that fail as only NCCL's do, by a stand-in for it (`tests/stand_in`): each case in a process of
//! its own, whose backends it replaces, and which the program may end.

use std::env;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use distill::dist::{Abandoned, Activity, ProcessGroup, StoppedEarly};
use distill::native;
use distill_stand_in::StandIn;
use tch::{Device, Kind, Tensor};

use super::{join, patient_ranks, ranks};
use crate::support::processes::free_port;

/// Which case a child process plays.
const CASE: &str = "DISTILL_TEST_CASE";

/// Plays `case` in another process and gives what it left behind, and how long it took.
fn play(case: &str) -> (Output, Duration) {
    let begun = Instant::now();
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "dist::queued::as_child"])
        .env(CASE, case)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (output, begun.elapsed())
}

#[track_caller]
fn passes(case: &str) {
    let (output, _) = play(case);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "other tests run it in a process of its own"]
fn as_child() {
    native::install_panic_hook();
    match env::var(CASE).unwrap_or_default().as_str() {
        "an error" => an_error(),
        "nobody connects" => nobody_connects(),
        "nobody connects, and a stop" => nobody_connects_and_a_stop(),
        "a full queue" => a_full_queue(),
        "a slow abort" => a_slow_abort(),
        "a standstill" => a_standstill(),
        case => panic!("no case {case}"),
    }
}

fn one() -> Tensor {
    Tensor::ones([4], (Kind::Float, Device::Cpu))
}

/// As a training thread waits for a device that waits for a sum.
fn wait_for_ever(group: &ProcessGroup) -> Result<()> {
    group.until("the device", || {
        thread::sleep(Duration::from_millis(20));
        Ok(false)
    })
}

/// What NCCL's watchdog finds ends all ranks within 15 seconds, with its text, though no wait fails.
#[test]
fn an_error_that_only_a_watchdog_sees_ends_all() {
    passes("an error");
}

fn an_error() {
    let text = "NCCL error in: ProcessGroupNCCL.cpp:100, remote process exited or there was a network \
                error, NCCL version 2.28.9\nncclRemoteError: A call failed possibly due to a network \
                error or a remote process exiting prematurely.\nLast error:\nsocketProgress: Connection \
                closed by remote peer node-b<41234>";
    let error = Some((1, Duration::from_secs(1), text));
    StandIn { error, ..Default::default() }.install();
    let begun = Instant::now();
    let found = patient_ranks(3, Duration::from_secs(600), |group| {
        group.begin_step(3);
        group.sum(&one())?;
        wait_for_ever(&group).inspect_err(|error| group.announce(error))
    });
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    for (rank, found) in found.iter().enumerate() {
        let error = format!("{:#}", found.as_ref().unwrap_err());
        assert!(error.contains("Connection closed by remote peer node-b<41234>"), "{error}");
        assert!(rank == 1 || error.starts_with("rank 1 ("), "{error}");
        assert!(error.contains("at step 3"), "{error}");
    }
}

/// A network that carries nothing, though all ranks have met: the meeting time ends the wait, and the
/// interface is named.
#[test]
fn ranks_that_never_connect_are_not_waited_for() {
    passes("nobody connects");
}

fn nobody_connects() {
    StandIn { connects: false, ..Default::default() }.install();
    let (begun, port) = (Instant::now(), free_port());
    let meeting = Duration::from_secs(3);
    let found = thread::scope(|scope| {
        let joined = [0, 1].map(|rank| {
            scope.spawn(move || join((rank, 2), port, meeting, Duration::from_secs(600), || false))
        });
        joined.map(|joined| joined.join().unwrap())
    });
    // Rank 1 waits five seconds longer, for what rank 0 has to say.
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    let errors = found.map(|found| format!("{:#}", found.err().unwrap()));
    let expected = "NCCL has not connected the 2 ranks within 3 s, though all have tried";
    assert!(errors[0].starts_with(expected), "{errors:?}");
    assert!(errors[0].contains("NCCL_SOCKET_IFNAME names another one"), "{errors:?}");
    assert!(errors[1].starts_with("rank 0 (") && errors[1].contains(expected), "{errors:?}");
}

/// A signal meanwhile is not waited with.
#[test]
fn a_signal_ends_a_wait_for_connections() {
    passes("nobody connects, and a stop");
}

fn nobody_connects_and_a_stop() {
    StandIn { connects: false, ..Default::default() }.install();
    let begun = Instant::now();
    let minute = Duration::from_secs(60);
    let found = join((0, 1), free_port(), minute, minute, || true);
    assert!(found.err().unwrap().is::<StoppedEarly>());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// One rank has no images and gives the step up; another has filled its device's queue with sums, and its
/// thread is inside the next call, where it cannot look around. It is freed.
#[test]
fn a_thread_inside_a_full_queue_is_freed_when_the_step_is_given_up() {
    passes("a full queue");
}

fn a_full_queue() {
    StandIn { queue: 8, ..Default::default() }.install();
    let begun = Instant::now();
    let found = patient_ranks(3, Duration::from_secs(600), |group| {
        group.begin_step(5);
        if group.rank() == 0 {
            thread::sleep(Duration::from_secs(1));
            group.abandon(5)?;
        } else {
            let _computing = group.enter(Activity::Computing);
            let stuck = (0..20).try_for_each(|_| group.sum(&one())).unwrap_err();
            assert!(stuck.is::<Abandoned>(), "{stuck:#}");
        }
        group.end_collectives(4)
    });
    for found in found {
        found.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// An abort that takes a minute does not keep a rank from saving.
#[test]
fn an_abort_that_does_not_return_is_left_behind() {
    passes("a slow abort");
}

fn a_slow_abort() {
    StandIn { abort: Duration::from_secs(60), ..Default::default() }.install();
    let found = ranks(2, |group| {
        group.begin_step(5);
        group.sum(&one())?;
        if group.rank() == 0 {
            group.abandon(5)?;
        } else {
            assert!(wait_for_ever(&group).unwrap_err().is::<Abandoned>());
        }
        let begun = Instant::now();
        group.end_collectives(4)?;
        Ok(begun.elapsed())
    });
    for found in found {
        let took = found.unwrap();
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
}

/// Rank 0 is stuck in a call because rank 1 never gets images and takes no part in the sums: rank 1 is
/// named, and what is stuck ends all the same.
#[test]
fn who_waits_for_images_is_blamed_for_others_that_are_stuck() {
    let (output, took) = play("a standstill");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = text.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(line.starts_with("error: rank 1 (") && line.contains("waiting for images"), "{text}");
    assert!(took < Duration::from_secs(30), "{took:?}");
}

fn a_standstill() {
    StandIn { queue: 4, ..Default::default() }.install();
    patient_ranks(2, Duration::from_secs(2), |group| {
        group.begin_step(6);
        if group.rank() == 0 {
            let _computing = group.enter(Activity::Computing);
            return (0..20).try_for_each(|_| group.sum(&one()));
        }
        let _waiting = group.enter(Activity::WaitingForData);
        loop {
            group.check()?;
            thread::sleep(Duration::from_millis(100));
        }
    });
}
