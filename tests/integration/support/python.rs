//! Peers in Python.

use std::path::Path;
use std::process::Command;

/// A Python with torch and transformers, running one of `tests/python`.
pub fn python(script: &str) -> Command {
    let mut command = interpreter();
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script));
    command
}

/// The same, running a module of its packages.
pub fn python_module(name: &str) -> Command {
    let mut command = interpreter();
    command.args(["-m", name]);
    command
}

fn interpreter() -> Command {
    let python = std::env::var_os("DISTILL_TEST_PYTHON").expect(
        "DISTILL_TEST_PYTHON is not set: this test needs a Python that has torch and \
         transformers; scripts/test makes one and sets the variable",
    );
    let mut command = Command::new(python);
    command.env("HF_HUB_OFFLINE", "1");
    command
}

/// Runs a command that has to succeed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {errors}");
    String::from_utf8(output.stdout).unwrap()
}
