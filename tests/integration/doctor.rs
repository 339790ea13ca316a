//! `distill doctor`, and what the program says of itself: version, completions, manual pages.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::device::program;
use crate::support::ranks::Ranks;
use crate::support::workshop::{Finished, Workshop};

fn findings(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", finished.stdout))
}

/// The finding of this name.
#[track_caller]
fn finding<'a>(all: &'a Value, name: &str) -> &'a Value {
    let list = all["findings"].as_array().unwrap();
    list.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name} in {all}"))
}

/// Protects who looks for a cause: every line says how bad it is and, where it is bad, what to do, and the exit
/// code follows from that alone.
#[test]
fn a_machine_is_looked_over_and_a_problem_is_the_exit_code() {
    let workshop = Workshop::new();
    let done = Finished::of(workshop.command(&["doctor", "--json"]).output().unwrap());
    let all = findings(&done);
    let list = all["findings"].as_array().unwrap();
    let count = |verdict: &str| list.iter().filter(|one| one["verdict"] == verdict).count();
    assert_eq!(
        (&all["problems"], &all["warnings"]),
        (&count("problem").into(), &count("warning").into())
    );
    assert_eq!(done.code, Some(i32::from(count("problem") > 0)), "{all}");
    assert_eq!(list.len(), count("ok") + count("warning") + count("problem"));
    for one in list {
        assert_eq!(one["verdict"] == "ok", one["advice"].is_null(), "{one}");
    }
    let known = ["libtorch", "NVIDIA driver", "instruction sets", "cores", "threads", "memory"];
    let more = ["/dev/shm", "open files", "disk", "launcher", "host name", "interfaces", "port"];
    known.iter().chain(&more).for_each(|name| assert!(finding(&all, name)["found"].is_string()));
    assert_eq!(finding(&all, "file locks")["verdict"], "ok");
    assert_eq!(finding(&all, "worker program")["verdict"], "ok");
    let exchange = finding(&all, "exchange");
    assert_eq!(exchange["verdict"], "ok", "two processes of this machine sum: {exchange}");
    assert!(exchange["found"].as_str().unwrap().starts_with("2 ranks over "), "{exchange}");
    assert!(!workshop.path("runs").exists(), "nothing is left");
    assert!(all["version"].as_str().unwrap().contains("libtorch 2."), "{all}");
}

/// Each has a line with what to do: a place that nothing can be written to, variables of half a launcher, a low
/// limit, threads that are no number.
#[test]
fn what_would_end_a_run_is_told() {
    let workshop = Workshop::new();
    let command = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = workshop.command(&[&["doctor"], arguments].concat());
        command.envs(variables.iter().copied());
        Finished::of(command.output().unwrap())
    };
    let nowhere = command(&["--run", "/proc/run", "--json"], &[("OMP_NUM_THREADS", "many")]);
    assert_eq!(nowhere.code, Some(1), "{}", nowhere.stdout);
    let all = findings(&nowhere);
    assert_eq!(finding(&all, "run directory")["verdict"], "problem");
    assert!(finding(&all, "run directory")["advice"].as_str().unwrap().contains("--run"));
    assert_eq!(finding(&all, "threads")["verdict"], "warning");

    let half = command(&[], &[("RANK", "1")]);
    assert_eq!(half.code, Some(1), "{}", half.stdout);
    let line = half.stdout.lines().find(|line| line.starts_with("problem  launcher")).unwrap();
    assert!(line.contains("WORLD_SIZE"), "{line}");
    let last = half.stdout.lines().last().unwrap();
    assert!(last.starts_with("1 problem, "), "{last}");

    let mut low = Command::new("sh");
    low.args(["-c", "ulimit -n 100 && exec \"$0\" doctor --json"]).arg(program());
    let low = Finished::of(low.stdin(Stdio::null()).output().unwrap());
    assert_eq!(low.code, Some(1), "{}", low.stdout);
    let files = findings(&low);
    assert_eq!(finding(&files, "open files")["found"], "at most 100");
}

/// Under a launcher its own ranks sum, and only the first tells what is well.
#[test]
fn ranks_of_a_launcher_exchange_numbers() {
    let workshop = Workshop::new();
    let ranks = Ranks::start(2, |_| workshop.command(&["doctor"]));
    let [first, second] = &ranks.finish(Duration::from_secs(60))[..] else { panic!("two ranks") };
    assert!(first.stdout.contains("rank 0 of 2, 0 of 2 on this node"), "{}", first.stdout);
    let exchange = first.stdout.lines().find(|line| line.contains("exchange")).unwrap();
    assert!(exchange.starts_with("ok") && exchange.contains("2 ranks over"), "{exchange}");
    let quiet =
        second.stdout.lines().all(|line| line.starts_with("rank 1: ") && !line.contains(" ok "));
    assert!(quiet, "{}", second.stdout);
}

/// A bug report that begins with it says what was run.
#[test]
fn the_version_names_commit_libtorch_and_cuda() {
    let workshop = Workshop::new();
    let done = Finished::of(workshop.command(&["--version"]).output().unwrap()).succeeds();
    let line = done.stdout.trim();
    let parts = line.strip_prefix("distill 0.").and_then(|rest| rest.split_once(" (commit "));
    let (commit, rest) = parts.and_then(|(_, rest)| rest.split_once(", ")).expect(line);
    assert!(commit == "unknown" || commit.split('-').next().unwrap().len() >= 10, "{line}");
    assert!(rest.starts_with("libtorch 2.") && rest.contains("CUDA"), "{line}");
}

/// What bash would offer for the last of these words.
fn offered(script: &str, words: &[&str]) -> Vec<String> {
    let last = words.len() - 1;
    let line = words.join(" ");
    let ask = format!(
        "source {script:?} || exit 1\nCOMP_WORDS=({line} {})\nCOMP_CWORD={last}\n_distill distill {:?} {:?}\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        if words[last].is_empty() { "''" } else { "" },
        words[last],
        words[last - 1]
    );
    let answer = Finished::of(Command::new("bash").args(["-c", &ask]).output().unwrap()).succeeds();
    answer.stdout.lines().map(str::to_string).collect()
}

/// The real bash completes commands, commands of commands, options and their values.
#[test]
fn bash_completes_commands_and_options() {
    let workshop = Workshop::new();
    let script = |shell: &str| {
        let output = workshop.command(&["completions", shell]).output().unwrap();
        Finished::of(output).succeeds().stdout
    };
    let path = workshop.path("distill.bash");
    std::fs::write(&path, script("bash")).unwrap();
    let path = path.to_str().unwrap();
    assert_eq!(offered(path, &["distill", "doc"]), ["doctor"]);
    assert_eq!(offered(path, &["distill", "eval", "kn"]), ["knn"]);
    assert!(offered(path, &["distill", "eval", "knn", "--held"]).contains(&"--held-out".into()));
    assert_eq!(offered(path, &["distill", "eval", "knn", "--precision", "b"]), ["bf16"]);
    assert!(script("zsh").starts_with("#compdef distill"));
    assert!(script("fish").contains("complete -c distill"));
    let unknown = workshop.command(&["completions", "cmd"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
}

/// Every command has a page, and a folder that cannot be made is named.
#[test]
fn every_command_has_a_manual_page() {
    let workshop = Workshop::new();
    Finished::of(workshop.command(&["man", "--out", "man"]).output().unwrap()).succeeds();
    for name in ["distill", "distill-doctor", "distill-eval-knn", "distill-data-pack"] {
        let page = std::fs::read_to_string(workshop.path(&format!("man/{name}.1"))).unwrap();
        assert!(page.contains(&format!(".TH {name} 1")), "{name}: {page}");
    }
    let page = std::fs::read_to_string(workshop.path("man/distill-doctor.1")).unwrap();
    assert!(!page.contains("one-of-two") && page.contains("\\-\\-json"), "{page}");
    let fails = workshop.command(&["man", "--out", "config.toml/man"]).output().unwrap();
    Finished::of(fails).fails(1, &["config.toml/man"]);
}
