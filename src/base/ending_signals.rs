//! Signals by which a person, a terminal or a scheduler asks a program to end.

use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::Signal;

/// SIGINT is Ctrl-C. Schedulers send SIGTERM, and before the time is up SIGUSR1, SIGUSR2 or SIGXCPU; a
/// terminal that goes sends SIGHUP.
const ALL: [Signal; 6] =
    [Signal::INT, Signal::TERM, Signal::HUP, Signal::USR1, Signal::USR2, Signal::XCPU];

/// A terminal and a wrapper both hand on one Ctrl-C: two that are so near to each other are one.
pub const ONE_INTERRUPT: Duration = Duration::from_millis(500);

/// Numbers of the signals to listen to: all but those that were ignored when the program was started, as
/// `nohup` has SIGHUP ignored. To be asked for the first time before any of them is listened to.
pub fn ending_signals() -> &'static [i32] {
    static FOUND: OnceLock<Vec<i32>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let ignored = ignored_signals();
        let all = ALL.map(Signal::as_raw).into_iter();
        // A shell without job control has Ctrl-C ignored by what runs in its background.
        let is_heard =
            |signal: &i32| ignored & (1 << (signal - 1)) == 0 || *signal == Signal::INT.as_raw();
        all.filter(is_heard).collect()
    })
}

/// Signals that this process ignores, a bit each; none where the system does not tell.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
