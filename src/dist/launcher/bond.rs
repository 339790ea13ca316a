//! What ties a process to the launcher that started it.

use std::env;
use std::process;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal, test_kill_process};

use crate::dist::environment::LAUNCH_MARK;

/// In a process of `distill launch`: it is killed when the launcher is gone, however that went.
/// Elsewhere this does nothing. It belongs at the start of the program.
pub fn die_with_the_launcher() {
    let mark = env::var(LAUNCH_MARK).ok();
    let launcher = mark.and_then(|mark| mark.parse().ok()).and_then(Pid::from_raw);
    let Some(launcher) = launcher else { return };
    if getppid() == Some(launcher) {
        // Linux has had this for decades; a kernel that refuses it takes nothing else away.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
    }
    // Before the request above, or in the time before this program's start, it may have died.
    if getppid() != Some(launcher) && test_kill_process(launcher) == Err(Errno::SRCH) {
        process::exit(128 + Signal::KILL.as_raw());
    }
}
