//! A run that goes on while it is watched.

use std::fs;

use super::terminal::OnTerminal;
use super::{MadeRun, contents, lines};

const SIZE: (u16, u16) = (80, 24);

/// Lines that come are shown; a run that goes back to a checkpoint is shown so; one that stands still is said to.
#[test]
fn a_run_that_grows_goes_back_and_stops_is_followed() {
    let run = MadeRun::new();
    let mut terminal = OnTerminal::watch(&run.path(), SIZE);
    terminal.shows(&["flagship", "no step is recorded yet"]);
    run.add(1..=100, 1.0);
    terminal.shows(&[
        "step 100 of 400 (25.0 %)",
        "10 min 0 s left",
        "training",
        "loss of vith16: 0.01",
    ]);
    run.add(101..=150, 1.0);
    terminal.shows(&["step 150 of 400 (37.5 %)"]);
    // A run that goes on from an earlier step replaces its file.
    let other = run.path().join(".metrics.new");
    fs::write(&other, lines(1..=120, 1.0)).unwrap();
    fs::rename(&other, run.metrics()).unwrap();
    terminal.shows(&["step 120 of 400 (30.0 %)"]);
    fs::write(run.metrics(), lines(1..=130, 700.0)).unwrap();
    terminal.shows(&["stands still: no line for 11 min", "where one came every 2 s"]);
    run.add(131..=400, 1.0);
    terminal.shows(&["complete", "step 400 of 400 (100.0 %)"]);
    terminal.press("q");
    terminal.ends_restored();
}

/// A real run, watched from before its beginning to its end, finds its directory as without.
#[test]
fn watching_touches_nothing() {
    let run = MadeRun::new();
    run.add(1..=100, 1.0);
    fs::write(run.path().join("train.log"), "10:00:00 warning: late\n").unwrap();
    let before = contents(&run.path());
    let mut terminal = OnTerminal::watch(&run.path(), SIZE);
    terminal.shows(&["step 100 of 400"]);
    for panel in ["2", "3", "4", "5"] {
        terminal.press(panel);
    }
    terminal.shows(&["10:00:00 warning: late"]);
    terminal.press("q");
    terminal.ends_restored();
    assert!(before == contents(&run.path()), "a file is there that was not, or another");
}

#[test]
fn keys_change_panel_and_student() {
    let run = MadeRun::new();
    run.add(1..=100, 1.0);
    let mut terminal = OnTerminal::watch(&run.path(), SIZE);
    terminal.shows(&["loss of vith16: 0.01", "(1 of 2)"]);
    terminal.press("\x1b[C");
    terminal.shows(&["loss of vit1b16: 0.02", "(2 of 2)"]);
    terminal.press("\x1b[C");
    terminal.shows(&["loss of vith16: 0.01", "(1 of 2)"]);
    terminal.press("\x1b[D");
    terminal.shows(&["loss of vit1b16: 0.02"]);
    terminal.press("\t");
    terminal.shows(&["vith16  0.01  class 0.005  grad norm 0.25", "> vit1b16"]);
    terminal.press("\t");
    terminal.shows(&["rates and times", "images/s       4,096.5", "MFU            40.8 %"]);
    terminal.press("\x1b[Z\x1b[Z");
    terminal.shows(&["loss of vit1b16"]);
    terminal.press("?");
    terminal.shows(&["another student", "leave; the run goes on"]);
    terminal.press("?");
    terminal.shows(&["loss of vit1b16"]);
    terminal.press("5");
    terminal.shows(&["no log is read", "--log"]);
    terminal.press("q");
    terminal.ends_restored();
}
