//! Other processes: found, waited for, ended.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::device::patience;
use super::python::run;

pub fn kill(process: u32) {
    // It may be gone already.
    let _ = kill_process(Pid::from_raw(process as i32).unwrap(), Signal::KILL);
}

/// Name, state and parent of a process that exists.
pub fn status(process: u32) -> Option<(String, char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((name.to_string(), state, fields.next()?.parse().ok()?))
}

/// Live children of `parent`.
pub fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str().and_then(|name| name.parse().ok()));
    let is_child =
        |&process: &u32| status(process).is_some_and(|(_, state, of)| of == parent && state != 'Z');
    processes.filter(is_child).collect()
}

/// Waits until `holds`, and fails after half a minute.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        let limit = patience(Duration::from_secs(30));
        assert!(start.elapsed() < limit, "{what}: not after {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn signal(process: u32, signal: Signal) {
    kill_process(Pid::from_raw(process as i32).unwrap(), signal).unwrap();
}

/// Whether a child has ended, though nobody has waited for it.
pub fn has_ended(process: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{process}/stat")) {
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')),
        Err(_) => true,
    }
}

pub fn send(signal: &str, process: u32) {
    let mut kill = Command::new("kill");
    let sent = kill.args([&format!("-{signal}"), &process.to_string()]).stderr(Stdio::null());
    let _ = sent.status().unwrap();
}

/// A port that nobody listens at now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Names the folder that a child works in.
pub const FOLDER: &str = "DISTILL_TEST_MEMORY_FOLDER";

/// Starts this binary again for one ignored test; returns the peak memory that it prints.
pub fn peak_of(child: &str, folder: &Path) -> u64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([child, "--exact", "--ignored", "--nocapture"]).env(FOLDER, folder);
    let output = run(&mut command);
    let peak = output.lines().find_map(|line| line.strip_prefix("peak "));
    peak.unwrap_or_else(|| panic!("{child} printed no peak: {output}")).parse().unwrap()
}
