//! A process of its own for what would disturb the others: the logger, signals, a terminal.
//!
//! It is this test program once more, told to run [`as_child`] only.

use std::env;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use clap::Parser;
use distill::cli::logging::{self, LogArgs};
use distill::config::ConfigError;
use distill::ui::progress::Progress;
use distill::ui::screen::Phase;

use super::metrics_of;

const ROLE: &str = "DISTILL_TEST_CHILD_ROLE";
const ARGUMENTS: &str = "DISTILL_TEST_CHILD_ARGUMENTS";

/// What the child prints when the logger refuses its arguments.
pub(super) const REFUSED: &str = "refused: ";

/// A command that runs `role` in a child; `arguments` are those of the logger.
pub(super) fn command(role: &str, arguments: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("this program's path"));
    command
        .args(["--exact", "seen::child::as_child", "--ignored", "--nocapture", "--quiet"])
        .env(ROLE, role)
        .env(ARGUMENTS, arguments)
        .env_remove("RUST_LOG")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null());
    command
}

/// Runs [`command`] on a terminal of `columns` columns; its output is what the terminal got.
pub(super) fn on_terminal(columns: u16, role: &str, arguments: &str) -> Output {
    let child = command(role, arguments);
    let words: Vec<_> = std::iter::once(child.get_program())
        .chain(child.get_args())
        .map(|word| format!("'{}'", word.to_str().expect("a path in UTF-8")))
        .collect();
    let mut script = Command::new("script");
    script
        .args(["--quiet", "--return", "--command"])
        .arg(format!("stty cols {columns} rows 30; exec {}", words.join(" ")))
        .arg("/dev/null")
        .env("TERM", "xterm-256color")
        .stdin(Stdio::null());
    for (key, value) in child.get_envs() {
        match value {
            Some(value) => script.env(key, value),
            None => script.env_remove(key),
        };
    }
    script.output().expect("`script` runs (Debian package bsdutils)")
}

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    log: LogArgs,
}

#[test]
#[ignore = "other tests run it in a process of its own"]
fn as_child() {
    let Ok(role) = env::var(ROLE) else { return };
    let arguments = env::var(ARGUMENTS).unwrap_or_default();
    let arguments =
        Arguments::parse_from(["child"].into_iter().chain(arguments.split_whitespace()));
    if let Err(error) = logging::start(&arguments.log) {
        assert!(error.is::<ConfigError>());
        println!("{REFUSED}{error}");
        return;
    }
    match role.as_str() {
        "training" => {
            train().finish();
            tracing::info!(target: "distill::train", step = 24, "saved a checkpoint");
        }
        "training, killed" => {
            // The screen stays as it is: nothing is dropped.
            std::mem::forget(train());
            sleep(Duration::from_millis(300));
            std::process::exit(0);
        }
        "levels" => levels(),
        "interrupted twice" => super::signals::interrupted_twice(),
        "terminated" => super::signals::terminated(),
        _ => panic!("no role {role}"),
    }
}

/// Steps 5 to 24 of 40, and a line logged in their middle.
fn train() -> Progress {
    let indexing = Phase::begin("indexing shards", Some(3));
    for _ in 0..3 {
        sleep(Duration::from_millis(60));
        indexing.advance(1);
    }
    indexing.finish();
    let names = ["vith16", "vit1b16"].map(String::from);
    let mut progress = Progress::new(40, 5, &names, 10);
    for step in 5..=24 {
        sleep(Duration::from_millis(30));
        progress.update(&metrics_of(step));
        if step == 12 {
            tracing::warn!(member = "cat \"7\".jpg", "an image does not decode");
        }
    }
    progress
}

fn levels() {
    tracing::error!("at error");
    tracing::warn!("at warn");
    tracing::info!(target: "distill::train", "at info");
    tracing::debug!(target: "distill::train", "at debug");
    tracing::info!(target: "library", "of a library");
}
