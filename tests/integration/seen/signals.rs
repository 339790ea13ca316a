//! Signals that ask for an end are told, and a second SIGINT ends the process.

use std::thread::sleep;
use std::time::Duration;

use distill::train::signals::{install, stop_requested};
use distill::{ONE_INTERRUPT, ending_signals};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU};
use signal_hook::low_level::raise;

use super::child;
use crate::support::processes::wait_until;

/// Waits until the last signal is told, and gives its name.
fn told() -> String {
    wait_until("the signal", || stop_requested().is_some());
    stop_requested().map(|signal| signal.to_string()).unwrap_or_default()
}

pub(super) fn interrupted_twice() {
    install().unwrap();
    install().expect("a second call changes nothing");
    assert_eq!(stop_requested(), None);
    raise(SIGINT).unwrap();
    assert_eq!(told(), "Ctrl-C (SIGINT)");
    println!("told");
    // A terminal and a wrapper send one and the same.
    raise(SIGINT).unwrap();
    sleep(ONE_INTERRUPT);
    println!("counted once");
    raise(SIGINT).unwrap();
    sleep(Duration::from_secs(20));
    println!("still there");
}

pub(super) fn terminated() {
    install().unwrap();
    for (signal, name) in [
        (SIGTERM, "SIGTERM"),
        (SIGHUP, "SIGHUP"),
        (SIGUSR1, "SIGUSR1"),
        (SIGUSR2, "SIGUSR2"),
        (SIGXCPU, "SIGXCPU"),
        (SIGTERM, "SIGTERM"),
    ] {
        // Whoever runs the tests may have it ignored.
        if ending_signals().contains(&signal) {
            raise(signal).unwrap();
            wait_until(name, || told() == name);
        }
    }
    println!("told");
}

/// Protects the way out of a run that does not stop by itself: Ctrl-C twice.
#[test]
fn second_interrupt_ends_the_process_with_130() {
    let output = child::command("interrupted twice", "").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("told") && text.contains("counted once"), "{text}");
    assert!(!text.contains("still there"), "{text}");
}

/// Protects a run that a scheduler stops: it has time to save, however often it is told.
#[test]
fn termination_is_told_and_does_not_end_the_process() {
    let output = child::command("terminated", "").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("told"), "{text}");
}
