//! SIGINT and SIGTERM are told, and a second SIGINT ends the process.

use distill::train::signals::{Signal, install, stop_requested};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::raise;

use super::child;

pub(super) fn interrupted_twice() {
    install().unwrap();
    install().expect("a second call changes nothing");
    assert_eq!(stop_requested(), None);
    raise(SIGINT).unwrap();
    assert_eq!(stop_requested(), Some(Signal::Interrupt));
    println!("told");
    raise(SIGINT).unwrap();
    println!("still there");
}

pub(super) fn terminated() {
    install().unwrap();
    raise(SIGTERM).unwrap();
    raise(SIGTERM).unwrap();
    assert_eq!(stop_requested(), Some(Signal::Terminate));
    println!("told");
}

/// Protects the way out of a run that does not stop by itself: Ctrl-C twice.
#[test]
fn second_interrupt_ends_the_process_with_130() {
    let output = child::command("interrupted twice", "").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("told") && !text.contains("still there"), "{text}");
}

/// Protects a run that a scheduler stops: it has time to save, however often it is told.
#[test]
fn termination_is_told_and_does_not_end_the_process() {
    let output = child::command("terminated", "").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("told"), "{text}");
}
