//! However it ends, the terminal is as it was before.

use std::env;
use std::fs;

use super::MadeRun;
use super::terminal::OnTerminal;
use crate::support::processes::wait_until;

const ROLE: &str = "DISTILL_TEST_WATCH_PANICS";
const SIZE: (u16, u16) = (80, 24);

#[test]
fn keys_leave_and_give_the_terminal_back() {
    let run = MadeRun::new();
    run.add(1..=200, 1.0);
    for key in ["q", "\x03", "\x1b"] {
        let mut terminal = OnTerminal::watch(&run.path(), SIZE);
        terminal.shows(&["step 200 of 400"]);
        terminal.is_taken(true);
        terminal.press(key);
        let text = terminal.ends_restored();
        assert!(text.contains("ended 0"), "{key:?}: {text}");
        assert!(!text.contains("step 200"), "{key:?}: its screen is gone: {text}");
    }
}

#[test]
fn signals_leave_and_give_the_terminal_back() {
    let run = MadeRun::new();
    run.add(1..=200, 1.0);
    let program = crate::support::device::program();
    for signal in ["TERM", "INT", "HUP"] {
        let line = format!(
            "timeout --foreground --preserve-status -s {signal} 2 '{}' watch '{}'; echo ended $?; stty -a",
            program.display(),
            run.path().display()
        );
        let terminal = OnTerminal::run(&line, SIZE);
        terminal.shows(&["step 200 of 400"]);
        let text = terminal.ends_restored();
        assert!(text.contains("ended 0"), "{signal}: {text}");
    }
}

/// Nobody can press a key where the terminal is gone, as after a lost connection.
#[test]
fn a_closed_terminal_ends_it() {
    let run = MadeRun::new();
    run.add(1..=200, 1.0);
    let number = run.path().with_extension("pid");
    let program = crate::support::device::program();
    // Hang-ups are ignored, as under nohup.
    let line = format!(
        "trap '' HUP; echo $$ > '{}'; exec '{}' watch '{}'",
        number.display(),
        program.display(),
        run.path().display()
    );
    let terminal = OnTerminal::run(&line, SIZE);
    terminal.shows(&["step 200 of 400"]);
    drop(terminal);
    let process = fs::read_to_string(number).unwrap();
    let state = || fs::read_to_string(format!("/proc/{}/stat", process.trim())).unwrap_or_default();
    wait_until("its end", || state().is_empty() || state().contains(") Z "));
}

/// Files that are lost while they are watched end it with one line, below the screen of before.
#[test]
fn an_error_is_told_after_the_screen_is_back() {
    let run = MadeRun::new();
    run.add(1..=200, 1.0);
    let terminal = OnTerminal::watch(&run.path(), SIZE);
    terminal.shows(&["step 200 of 400"]);
    std::fs::remove_file(run.metrics()).unwrap();
    std::fs::create_dir(run.metrics()).unwrap();
    let text = terminal.ends_restored();
    assert!(text.contains("error: cannot read") && text.contains("ended 1"), "{text}");
}

#[test]
#[ignore = "another test runs it in a process of its own"]
fn as_child() {
    if env::var_os(ROLE).is_some() {
        let _: () = distill::watch::on_terminal(|_| panic!("on purpose")).unwrap();
    }
}

#[test]
fn a_panic_gives_the_terminal_back() {
    let program = env::current_exe().unwrap();
    let line = format!(
        "{ROLE}=1 '{}' --exact watch::endings::as_child --ignored --nocapture --quiet 2>&1 | grep purpose; \
         echo ended; stty -a",
        program.display()
    );
    let text = OnTerminal::run(&line, (120, 40)).ends_restored();
    assert!(text.contains("on purpose"), "what went wrong is read: {text}");
}
