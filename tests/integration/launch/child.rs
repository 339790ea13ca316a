//! The launcher over processes that do whatever a test wants, in a process of its own; and a
//! process that tells its place.
//!
//! It is this test program once more, told to run [`as_child`] only.

use std::env;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use distill::cli::logging::{self, LogArgs};
use distill::dist::environment;
use distill::dist::launcher::{Ending, Launch, launch};

const ROLE: &str = "DISTILL_TEST_LAUNCH_ROLE";
const SCRIPT: &str = "DISTILL_TEST_LAUNCH_SCRIPT";
const PROCESSES: &str = "DISTILL_TEST_LAUNCH_PROCESSES";
const RESTARTS: &str = "DISTILL_TEST_LAUNCH_RESTARTS";
const GRACE: &str = "DISTILL_TEST_LAUNCH_GRACE";

const WAITS: &str = "waits";

/// How a launch of shell scripts is to go.
pub(super) struct Plan {
    /// Run by `sh` in each process.
    pub script: String,
    pub processes: usize,
    pub max_restarts: u32,
    pub grace_seconds: u64,
}

impl Plan {
    /// So many processes of this script, no restarts, and a long time of grace.
    pub fn new(processes: usize, script: &str) -> Self {
        Self { script: script.into(), processes, max_restarts: 0, grace_seconds: 60 }
    }

    /// The command that carries it out. What it prints last on standard output is the ending.
    pub fn command(&self) -> Command {
        let mut command = child("launch");
        command
            .env(SCRIPT, &self.script)
            .env(PROCESSES, self.processes.to_string())
            .env(RESTARTS, self.max_restarts.to_string())
            .env(GRACE, self.grace_seconds.to_string());
        command
    }

    /// Carries it out in a process group of its own, as a terminal does, and returns when each
    /// process has said `ready`.
    pub fn start(&self) -> Child {
        let mut command = self.command();
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        for _ in 0..self.processes {
            let mut line = String::new();
            while !line.ends_with("ready\n") {
                line.clear();
                assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the launch ended early");
            }
        }
        child.stdout = Some(lines.into_inner());
        child
    }
}

/// A command that prints the place of its process.
pub(super) fn tells_its_place() -> Command {
    child("rank_info")
}

fn child(role: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("this program's path"));
    command
        .args(["--exact", "launch::child::as_child", "--ignored", "--nocapture", "--quiet"])
        .env(ROLE, role)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null());
    command
}

#[test]
#[ignore = "other tests run it in a process of its own"]
fn as_child() {
    match env::var(ROLE).as_deref() {
        Ok("launch") => launch_script(),
        Ok("rank_info") => match environment::of_this_process() {
            Ok(rank_info) => println!("\n{rank_info:?}"),
            Err(error) => println!("\nerror: {error}"),
        },
        _ => {}
    }
}

fn launch_script() {
    let number = |name| env::var(name).unwrap().parse::<u64>().unwrap();
    logging::start(&LogArgs::default()).unwrap();
    let script = env::var(SCRIPT).unwrap();
    let plan = Launch {
        program: "sh".into(),
        arguments: ["-c", &script].map(Into::into).to_vec(),
        processes: number(PROCESSES) as usize,
        nodes: 1,
        node_rank: 0,
        host: "127.0.0.1".into(),
        port: None,
        devices: vec!["7".into(), "3".into()],
        threads: 5,
        max_restarts: number(RESTARTS) as u32,
        grace: Duration::from_secs(number(GRACE)),
        resume_code: 75,
        usage_code: 2,
    };
    let ending = match launch(&plan).unwrap() {
        Ending::Failed(failure) => {
            format!("code {} of rank {}\n{failure}", failure.how.code(), failure.rank)
        }
        other => format!("{other:?}"),
    };
    println!("\nending: {ending}");
}

/// Whether a process that runs [`unending`] with this mark exists.
pub(super) fn is_left(mark: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().any(|entry| {
        let line = std::fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
        let wanted = format!("{WAITS}\0{mark}");
        line.windows(wanted.len()).any(|part| part == wanted.as_bytes())
    })
}

/// A shell command that waits much longer than any test, and that [`is_left`] finds.
pub(super) fn unending(mark: &str) -> String {
    format!("sh -c 'while :; do sleep 0.2; done' {WAITS} {mark}")
}
