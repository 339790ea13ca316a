//! The real torchrun and the real mpirun.

use std::process::Command;

use super::child;

/// The two places that two processes under a launcher tell, by rank.
#[track_caller]
fn places(launcher: &mut Command) -> Vec<String> {
    let told = child::tells_its_place();
    launcher.arg(told.get_program()).args(told.get_args());
    for (name, value) in told.get_envs() {
        value.map(|value| launcher.env(name, value));
    }
    let output = launcher.output().unwrap_or_else(|error| {
        panic!("{launcher:?}: {error}; scripts/test installs what is missing")
    });
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut places: Vec<_> =
        stdout.lines().filter(|line| line.contains("RankInfo {")).map(String::from).collect();
    places.sort();
    assert_eq!(places.len(), 2, "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    places
}

#[track_caller]
fn assert_says(rank_info: &str, parts: &[&str]) {
    for part in parts {
        assert!(rank_info.contains(part), "`{part}` is not in: {rank_info}");
    }
}

/// The launcher that most users come from, as the PyPI wheel of torch has it.
#[test]
fn the_real_torchrun_tells_places() {
    let python = std::env::var("DISTILL_TEST_PYTHON")
        .expect("DISTILL_TEST_PYTHON names a Python with torch; scripts/test sets it");
    let mut torchrun = Command::new(python);
    torchrun.args(["-m", "torch.distributed.run", "--standalone", "--no-python"]);
    torchrun.args(["--nproc-per-node", "2"]);
    let places = places(&mut torchrun);
    for (rank, rank_info) in places.iter().enumerate() {
        assert_says(
            rank_info,
            &[
                &format!(" rank: {rank}, world_size: 2, local_rank: {rank}, local_world_size: 2"),
                "hosted_by_launcher: true",
                "attempt: 0",
            ],
        );
    }
}

/// Debian's Open MPI: a place and a port in common without anything else being set.
#[test]
fn the_real_mpirun_tells_places() {
    let mut mpirun = Command::new("mpirun");
    mpirun.args(["--allow-run-as-root", "--oversubscribe", "-n", "2"]);
    let places = places(&mut mpirun);
    let port = |rank_info: &str| {
        rank_info.split("port: ").nth(1).unwrap().split(',').next().map(String::from)
    };
    assert_eq!(port(&places[0]), port(&places[1]));
    for (rank, rank_info) in places.iter().enumerate() {
        assert_says(
            rank_info,
            &[
                &format!(" rank: {rank}, world_size: 2, local_rank: {rank}, local_world_size: 2"),
                "127.0.0.1",
                "hosted_by_launcher: false",
            ],
        );
    }
}
