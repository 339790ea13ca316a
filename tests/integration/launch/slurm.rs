//! The job script for Slurm, with programs that stand in for Slurm's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs the job script, as a batch job, where `srun` exits with `code`; and what it had `srun` and
/// `scontrol` do.
fn job(code: i32, arguments: &[&str]) -> (Output, String) {
    let folder = tempfile::tempdir().unwrap();
    let calls = folder.path().join("calls");
    for (name, code) in [("srun", code), ("scontrol", 0)] {
        let program = folder.path().join(name);
        let text = format!(
            "#!/bin/sh\necho {name} \"$@\" cpus $SRUN_CPUS_PER_TASK >>'{}'\nexit {code}\n",
            calls.display()
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/slurm/distill.sbatch");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.arg(script).args(arguments).env("PATH", path).env_remove("DISTILL");
    command.env("SLURM_JOB_ID", "4711").env("SLURM_CPUS_PER_TASK", "12");
    let output = command.output().unwrap();
    (output, fs::read_to_string(calls).unwrap_or_default())
}

/// 75 queues the job again, once.
#[test]
fn a_saved_run_is_queued_again() {
    let (output, calls) = job(75, &["--config", "a file.toml"]);
    assert_eq!(output.status.code(), Some(75));
    let calls: Vec<_> = calls.lines().collect();
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert!(calls[0].ends_with("distill --config a file.toml cpus 12"), "{calls:?}");
    assert!(calls[1].starts_with("scontrol requeue 4711"), "{calls:?}");
}

/// A run that is done or has failed is not repeated.
#[test]
fn other_ends_are_final() {
    for code in [0, 1, 2, 137, 143] {
        let (output, calls) = job(code, &["--config", "a.toml"]);
        assert_eq!(output.status.code(), Some(code));
        assert!(!calls.contains("scontrol"), "{code}: {calls}");
    }
}

/// Without arguments nothing is started.
#[test]
fn missing_arguments_are_told() {
    let (output, calls) = job(0, &[]);
    assert_eq!((output.status.code(), calls.as_str()), (Some(2), ""));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--config FILE"));
}
