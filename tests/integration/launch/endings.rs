//! How a launch ends, whatever its processes do.

use std::fs;
use std::process::{Child, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::child::{Plan, is_left, unending};
use crate::support::processes::wait_until;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the launch says of its end, once it has ended; and all that it printed.
fn ending_of(output: &Output) -> (String, String) {
    let stdout = text(&output.stdout);
    let all = format!("{stdout}{}", text(&output.stderr));
    let (_, ending) = stdout.rsplit_once("ending: ").unwrap_or_else(|| panic!("no end in: {all}"));
    (ending.to_string(), all)
}

fn ending(plan: &Plan) -> (String, String) {
    ending_of(&plan.command().output().unwrap())
}

/// The first failure takes all down: those that end when told to, and those that do not listen,
/// are stopped, or have children that do not listen. Its code is the launch's.
#[test]
fn one_failure_takes_all_down() {
    let mark = "one-failure";
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "cd '{folder}'
        case $RANK in
            0) trap 'echo told; exit 0' TERM; touch 0; {unending} & wait;;
            1) trap '' TERM; touch 1; {unending};;
            2) touch 2; kill -STOP $$; sleep 60;;
            3) (trap '' TERM; touch 3; exec {unending}) & wait;;
            4) until [ -e 0 ] && [ -e 1 ] && [ -e 2 ] && [ -e 3 ]; do sleep 0.1; done
               echo because >&2; exit 3;;
        esac",
        folder = folder.path().display(),
        unending = unending(mark)
    );
    let start = Instant::now();
    let (ending, all) = ending(&Plan { grace_seconds: 1, ..Plan::new(5, &script) });
    assert!(ending.starts_with("code 3 of rank 4\n"), "{all}");
    assert!(ending.contains("rank 4 exited with code 3") && ending.contains("\n    because"));
    assert!(all.contains("[rank 0] told"), "SIGTERM comes before SIGKILL: {all}");
    assert!(all.contains("rank 1 did not end within 1 s"), "{all}");
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(!is_left(mark), "a process is left");
}

/// A process that was killed is the cause of what the others say when they lose it.
#[test]
fn a_killed_process_is_blamed() {
    let script = "
        [ $RANK = 2 ] && kill -KILL $$
        trap 'echo lost rank 2 >&2; exit 1' TERM
        sleep 60 & wait";
    let (ending, all) = ending(&Plan::new(4, script));
    assert!(ending.starts_with("code 137 of rank 2\n"), "{all}");
    assert!(ending.contains("SIGKILL") && ending.contains("memory"), "{all}");
}

/// 75 from any process, and no failure, is the launch's own; and no reason for a restart.
#[test]
fn a_saved_state_is_handed_on() {
    for script in ["exit 75", "[ $RANK = 1 ] || exit 75"] {
        let (ending, all) = ending(&Plan { max_restarts: 5, ..Plan::new(3, script) });
        assert!(ending.starts_with("ResumeMe"), "{all}");
        assert!(!all.contains("restart"), "{all}");
    }
    let (ending, all) = ending(&Plan::new(2, "[ $RANK = 0 ] || exit 4; sleep 0.5; exit 75"));
    assert!(ending.starts_with("code 4 of rank 1"), "a failure weighs more: {all}");
}

/// A process that is done early does not end the others.
#[test]
fn an_early_end_is_no_failure() {
    let (ending, all) =
        ending(&Plan::new(3, "[ $RANK = 0 ] && { sleep 1; echo exported; }; exit 0"));
    assert!(ending.starts_with("Done") && all.contains("[rank 0] exported"), "{all}");
}

/// Restarts are counted, tell the processes which attempt it is, and end with the first attempt that
/// does not fail.
#[test]
fn restarts_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "cd '{}'; attempt=$TORCHELASTIC_RESTART_COUNT
        echo attempt $attempt; touch $attempt-$RANK
        [ $attempt = 2 ] && exit 0
        [ $RANK = 0 ] && {{ sleep 60 & wait; }}
        until [ -e $attempt-0 ]; do sleep 0.1; done
        exit 1",
        folder.path().display()
    );
    let (enough, all) = ending(&Plan { max_restarts: 2, ..Plan::new(2, &script) });
    assert!(enough.starts_with("Done"), "{all}");
    for line in ["attempt 0", "attempt 1", "attempt 2"] {
        for rank in 0..2 {
            assert!(all.contains(&format!("[rank {rank}] {line}\n")), "{line}: {all}");
        }
    }
    assert!(all.contains("restart 2 of 2"), "{all}");
    fs::remove_file(folder.path().join("0-0")).unwrap();
    fs::remove_file(folder.path().join("1-0")).unwrap();
    let (too_few, all) = ending(&Plan { max_restarts: 1, ..Plan::new(2, &script) });
    assert!(too_few.starts_with("code 1 of rank 1") && !all.contains("attempt 2"), "{all}");
}

/// Wrong configuration stays wrong.
#[test]
fn wrong_usage_is_not_tried_again() {
    let (ending, all) = ending(&Plan { max_restarts: 3, ..Plan::new(2, "exit 2") });
    assert!(ending.starts_with("code 2 of rank"), "{all}");
    assert!(!all.contains("restart"), "{all}");
}

/// Output that a runaway grandchild holds open does not hold up the end.
#[test]
fn an_open_pipe_does_not_hold_up_the_end() {
    let start = Instant::now();
    let (ending, all) = ending(&Plan::new(2, "setsid sleep 20 & exit 0"));
    assert!(ending.starts_with("Done"), "{all}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

fn id(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// SIGTERM to the launcher and Ctrl-C to its terminal's group arrive once in each process, which
/// may then take its time to save; the launch waits for that, and does not restart.
#[test]
fn signals_reach_each_process_once() {
    let script = "
        trap 'echo got INT' INT; trap 'echo got TERM' TERM
        echo ready; ticks=0
        while [ $ticks -lt 15 ]; do sleep 0.1; ticks=$((ticks + 1)); done
        exit 75";
    let plan = Plan { max_restarts: 3, grace_seconds: 0, ..Plan::new(2, script) };
    for (signal, name) in [(Signal::INT, "INT"), (Signal::TERM, "TERM")] {
        let child = plan.start();
        match signal {
            Signal::INT => kill_process_group(id(&child), signal).unwrap(),
            _ => kill_process(id(&child), signal).unwrap(),
        }
        let (ending, all) = ending_of(&child.wait_with_output().unwrap());
        assert!(ending.starts_with("ResumeMe"), "{all}");
        for rank in 0..2 {
            let line = format!("[rank {rank}] got {name}\n");
            assert_eq!(all.matches(&line).count(), 1, "{all}");
        }
    }
}

/// SIGQUIT asks for a status and ends nothing: not the launch, and not a process without a handler,
/// which the signal would kill.
#[test]
fn sigquit_ends_nothing() {
    let script = "
        [ $RANK = 0 ] && trap 'echo got QUIT' QUIT
        echo ready; ticks=0
        while [ $ticks -lt 15 ]; do sleep 0.1; ticks=$((ticks + 1)); done";
    let child = Plan::new(2, script).start();
    kill_process_group(id(&child), Signal::QUIT).unwrap();
    let (ending, all) = ending_of(&child.wait_with_output().unwrap());
    assert!(ending.starts_with("Done"), "{all}");
    assert_eq!(all.matches("[rank 0] got QUIT\n").count(), 1, "{all}");
    assert!(all.contains("rank 1 (process ") && all.contains("does not answer SIGQUIT"), "{all}");
}

/// After a request to stop, a failure is not a reason to start again.
#[test]
fn what_was_told_to_stop_is_not_restarted() {
    let plan = Plan { max_restarts: 3, ..Plan::new(2, "echo ready; sleep 60 & wait") };
    let child = plan.start();
    kill_process(id(&child), Signal::TERM).unwrap();
    let (ending, all) = ending_of(&child.wait_with_output().unwrap());
    assert!(ending.starts_with("code 143 of rank"), "{all}");
    assert!(!all.contains("restart"), "{all}");
}

/// Ctrl-C twice ends it all, whether or not the processes listen.
#[test]
fn a_second_interrupt_kills() {
    let mark = "second-interrupt";
    let script = format!("trap '' INT TERM; echo ready; {}", unending(mark));
    let child = Plan { max_restarts: 3, ..Plan::new(2, &script) }.start();
    wait_until("the processes run", || is_left(mark));
    kill_process(id(&child), Signal::INT).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    kill_process(id(&child), Signal::INT).unwrap();
    let (ending, all) = ending_of(&child.wait_with_output().unwrap());
    assert!(ending.starts_with("Interrupted"), "{all}");
    assert!(!is_left(mark), "a process is left");
}
