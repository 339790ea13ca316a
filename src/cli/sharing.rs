//! Sharing a machine: how threads that compute wait for each other.
//!
//! libgomp's threads spin at barriers for a millisecond or so. Beside other programs, our own decoding workers among
//! them, a thread that spins holds the core that the one it waits for needs. A thirtieth of that costs next to nothing
//! on an idle machine (docs/PERFORMANCE.md).

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Turns of a spin before the thread sleeps.
const SPINS: (&str, &str) = ("GOMP_SPINCOUNT", "10000");
/// What says how to wait otherwise.
const POLICY: &str = "OMP_WAIT_POLICY";

/// Has this program, if its command computes, start again with short spins, unless the environment says how to
/// wait: libgomp reads it when it is loaded, which is before anything of ours runs.
pub fn start_again_with_short_spins() {
    // One thread, as launchers ask for on CPUs, waits for none.
    let is_one_thread = env::var_os("OMP_NUM_THREADS").is_some_and(|threads| threads == "1");
    let is_said = env::var_os(SPINS.0).is_some() || env::var_os(POLICY).is_some();
    if is_one_thread || is_said || !computes() {
        return;
    }
    let mut arguments = env::args_os();
    let (Some(name), Ok(program)) = (arguments.next(), env::current_exe()) else { return };
    let mut again = Command::new(program);
    again.arg0(name).args(arguments).env(SPINS.0, SPINS.1);
    // It returns only where that failed: then threads wait as they do.
    let _ = again.exec();
}

/// Whether the command line's command trains or measures here, on CPU threads.
fn computes() -> bool {
    let first = env::args_os().nth(1).unwrap_or_default();
    let first = first.to_string_lossy();
    first.starts_with("--config")
        || ["pretrain", "eval", "features", "visualize", "bench", "launch"].contains(&&*first)
}
