//! Whole runs of two processes under every launcher: the same weights, bit for bit.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::support::device::program;
use crate::support::processes::{children, kill, wait_until};
use crate::support::workshop::{Finished, Workshop};

/// The same in all runs: a sum's last bits depend on how many threads share it.
const THREADS: &str = "1";

/// The command behind `distill --config config.toml` with another run directory, for a launcher to
/// start.
fn training(workshop: &Workshop, mut launcher: Command, run: &str) -> Command {
    let dir = format!("run.dir={run}");
    launcher.args(["--config", "config.toml", "--set", &dir]);
    let rank_info = workshop.command(&[]);
    launcher.current_dir(rank_info.get_current_dir().unwrap()).env_remove("RUST_LOG");
    launcher.stdin(Stdio::null()).env("OMP_NUM_THREADS", THREADS);
    launcher
}

/// `distill launch` with these options, up to where the arguments of its processes stand.
fn launch(options: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("launch").args(options).arg("--");
    command
}

fn finished(mut command: Command) -> Finished {
    Finished::of(command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; scripts/test installs what is missing")
    }))
}

/// A finished run of two processes under `distill launch`, which the others are compared with.
fn whole(workshop: &Workshop) -> Vec<(String, Vec<u8>)> {
    finished(training(workshop, launch(&["--nproc-per-node=2"]), "whole")).succeeds();
    workshop.checkpoint("whole", 8)
}

#[track_caller]
fn assert_same(workshop: &Workshop, run: &str, whole: &[(String, Vec<u8>)]) {
    assert_same_at(8, workshop, run, whole);
}

#[track_caller]
fn assert_same_at(step: u64, workshop: &Workshop, run: &str, whole: &[(String, Vec<u8>)]) {
    let files = workshop.checkpoint(run, step);
    let names = |files: &[(String, Vec<u8>)]| -> Vec<String> {
        files.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(&files), names(whole), "{run}");
    for ((name, bytes), (_, expected)) in files.iter().zip(whole) {
        assert!(bytes == expected, "{name} of {run} differs");
    }
}

/// The launcher that most users come from.
#[test]
fn a_run_under_the_real_torchrun() {
    let workshop = Workshop::new();
    let python = std::env::var("DISTILL_TEST_PYTHON")
        .expect("DISTILL_TEST_PYTHON names a Python with torch; scripts/test sets it");
    let mut torchrun = Command::new(python);
    torchrun.args(["-m", "torch.distributed.run", "--standalone", "--no-python"]);
    torchrun.args(["--nproc-per-node", "2", env!("CARGO_BIN_EXE_distill")]);
    finished(training(&workshop, torchrun, "torchrun")).succeeds();
    assert_same(&workshop, "torchrun", &whole(&workshop));
}

/// Debian's Open MPI.
#[test]
fn a_run_under_the_real_mpirun() {
    let workshop = Workshop::new();
    let mut mpirun = Command::new("mpirun");
    mpirun.args(["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"]);
    mpirun.arg(env!("CARGO_BIN_EXE_distill"));
    finished(training(&workshop, mpirun, "mpirun")).succeeds();
    assert_same(&workshop, "mpirun", &whole(&workshop));
}

/// The process that a launch started as `rank`.
fn process_of(launcher: &Child, rank: usize) -> u32 {
    let wanted = format!("RANK={rank}");
    let is_rank = |id: &u32| {
        let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    children(launcher.id()).into_iter().find(is_rank).expect("a process of this rank")
}

/// A rank that is killed in mid-run takes the other one along; both start again from the newest
/// checkpoint, and end where an undisturbed run ends.
#[test]
fn a_killed_rank_costs_a_restart() {
    let workshop = Workshop::new();
    let whole = whole(&workshop);
    for victim in 0..2 {
        let run = format!("killed-{victim}");
        let options = launch(&["--nproc-per-node=2", "--max-restarts=1"]);
        let mut command = training(&workshop, options, &run);
        let launcher = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let saved = workshop.path(&run).join("checkpoints/step-2");
        wait_until("it saves", || saved.exists());
        kill(process_of(&launcher, victim));
        let done = Finished::of(launcher.wait_with_output().unwrap()).succeeds();
        let blame = format!("rank {victim} was ended by signal 9");
        assert!(done.stderr.contains(&blame), "{}", done.stderr);
        assert!(done.stderr.contains("restart 1 of 1"), "{}", done.stderr);
        assert_same(&workshop, &run, &whole);
    }
}

/// Two network namespaces with a cable between them, each a host with an address of its own; what
/// is given for `$1` runs in both, with the node's number added, and `$3` beside them. Without the
/// right to make them the exit code is 99.
const TWO_HOSTS: &str = r#"
unset -v other
trap '[ -z "${other:-}" ] || kill "$other"' EXIT
own=$(readlink /proc/self/ns/net)
unshare --net sleep 600 & other=$!
for try in $(seq 100); do
    [ "$(readlink "/proc/$other/ns/net")" = "$own" ] || break
    sleep 0.05
done
there() { nsenter --net --target "$other" "$@"; }
{
    ip link add left type veth peer name right netns "$other" &&
    ip link set lo up && there ip link set lo up &&
    ip address add 10.99.7.1/24 dev left && there ip address add 10.99.7.2/24 dev right &&
    ip link set left up && there ip link set right up
} || exit 99
there sh -c "$1 --node-rank 1 $2" & second=$!
eval "${3:-}" &
sh -c "$1 --node-rank 0 $2"
first=$?
wait "$second" && exit "$first"
"#;

/// Two hosts that know each other by address alone, with `overrides`, and `beside` them a shell
/// command of the first. None where no network namespaces may be made.
fn over_two_hosts(
    workshop: &Workshop,
    restarts: u32,
    overrides: &str,
    beside: &str,
) -> Option<Finished> {
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--map-root-user"]);
    let program = env!("CARGO_BIN_EXE_distill");
    let launch = format!(
        "'{program}' launch --nproc-per-node 1 --nnodes 2 --master-addr 10.99.7.1 \
         --master-port 29500 --max-restarts {restarts}"
    );
    let run = format!("-- --config config.toml --set run.dir=hosts {overrides}");
    unshare.args(["bash", "-c", TWO_HOSTS, "hosts", &launch, &run, beside]);
    unshare.current_dir(workshop.path("")).stdin(Stdio::null()).env("OMP_NUM_THREADS", THREADS);
    let done = finished(unshare);
    if done.code == Some(99) || done.stderr.contains("unshare failed") {
        println!("skipped: no network namespaces may be made here: {}", done.stderr);
        return None;
    }
    Some(done)
}

#[test]
fn a_run_over_two_hosts() {
    let workshop = Workshop::new();
    let Some(done) = over_two_hosts(&workshop, 0, "", "") else { return };
    let done = done.succeeds();
    assert!(done.stderr.contains("they meet at 10.99.7.1:29500"), "{}", done.stderr);
    assert_same(&workshop, "hosts", &whole(&workshop));
}

/// A rank that is killed on either host: both launchers start their ranks anew, once, and the ranks
/// find each other again.
#[test]
fn a_killed_rank_costs_a_restart_on_both_hosts() {
    let workshop = Workshop::new();
    let longer = ["--set", "schedule.epochs=100", "--set", "checkpoint.every=20"];
    let mut undisturbed = training(&workshop, launch(&["--nproc-per-node=2"]), "whole");
    undisturbed.args(longer);
    finished(undisturbed).succeeds();
    let whole = workshop.checkpoint("whole", 200);
    for victim in 0..2 {
        let _ = fs::remove_dir_all(workshop.path("hosts"));
        let kill = format!(
            "until [ -e hosts/checkpoints/step-20 ]; do sleep 0.02; done; \
             for process in /proc/[0-9]*; do \
                 if tr '\\0' '\\n' <$process/environ 2>/dev/null | grep -qx RANK={victim} && \
                     [ \"$(readlink $process/cwd)\" = \"$PWD\" ]; then \
                     kill -9 ${{process#/proc/}}; \
                 fi; \
             done"
        );
        let Some(done) = over_two_hosts(&workshop, 1, &longer.join(" "), &kill) else {
            return;
        };
        let done = done.succeeds();
        assert_eq!(done.stderr.matches("restart 1 of 1").count(), 2, "{}", done.stderr);
        assert_same_at(200, &workshop, "hosts", &whole);
    }
}

/// The cable is pulled in mid-run: no connection is closed, nothing is ever heard again. Both hosts
/// end in time, each naming the other's rank.
#[test]
fn a_host_that_is_cut_off_is_named() {
    let workshop = Workshop::new();
    let endless = "--set schedule.epochs=100000 --set distributed.timeout_seconds=3";
    let pull = "until grep -q '\"step\":5,' hosts/metrics.jsonl 2>/dev/null; do sleep 0.1; done; \
                ip link set left down; date +%s.%N >pulled";
    let Some(done) = over_two_hosts(&workshop, 0, endless, pull) else { return };
    let since = fs::metadata(workshop.path("pulled")).unwrap().modified().unwrap();
    let seconds = since.elapsed().unwrap().as_secs_f64();
    assert!(seconds < 20.0, "noticed after {seconds:.1} s: {}", done.stderr);
    assert_ne!(done.code, Some(0));
    for name in ["error: rank 1 (", "error: rank 0 (10.99.7.1:29500) has not answered"] {
        assert!(done.stderr.contains(name), "{name}: {}", done.stderr);
    }
    assert!(done.stderr.contains("has given no sign of life"), "{}", done.stderr);
}
