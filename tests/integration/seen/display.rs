//! Log lines for people and machines, and the display on a terminal.

use std::num::NonZero;
use std::process::{Command, Output};

use serde_json::Value;

use super::child;

fn log_of(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

/// What a terminal shows after `output`, line by line.
fn screen(columns: u16, output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    let size = |length| NonZero::new(length).expect("not zero");
    let mut terminal = vt100::Parser::new(size(30), size(columns), 0);
    terminal.process(&output.stdout);
    terminal.screen().rows(0, columns).collect()
}

/// Protects logs in files: one line every `log_every` steps with all facts, nothing redrawn.
#[test]
fn plain_lines_where_no_terminal_is() {
    let log = log_of(child::command("training", ""));
    assert!(!log.contains(['\r', '\x1b']), "nothing is redrawn: {log:?}");
    let training: Vec<_> = log.lines().filter(|line| line.contains("training")).collect();
    assert_eq!(training.len(), 3, "steps 10, 20, and 24, the last: {log}");
    for fact in [
        "step=20 ",
        "total_steps=40",
        "vith16 0.",
        "vit1b16 0.",
        "learning_rate=",
        "images_per_second=800",
        "data_wait_percent=2.5",
        "tflops_per_second=400",
        "mfu_percent=40.4",
        "elapsed=",
        // 20 steps of 0.08 s
        "left=00:00:02",
    ] {
        assert!(training[1].contains(fact), "no {fact} in {}", training[1]);
    }
    assert!(log.contains(" warning: an image does not decode member="), "{log}");
    assert!(log.contains(" indexing shards: done"), "{log}");
}

/// Protects log collectors: with `--log-format json` every line is an object with flat fields.
#[test]
fn json_lines_parse() {
    let log = log_of(child::command("training", "--log-format json"));
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    let with = |message: &str| lines.iter().find(|line| line["message"] == message).unwrap();
    assert_eq!(with("an image does not decode")["member"], "cat \"7\".jpg");
    assert_eq!(with("an image does not decode")["level"], "WARN");
    assert_eq!(with("training")["step"], 10);
    assert_eq!(with("training")["images_per_second"], 800.0);
    assert_eq!(with("saved a checkpoint")["step"], 24);
}

/// Protects the display: bar, students, and rates stand once, also on a narrow terminal, below log
/// lines that are whole.
#[test]
fn terminal_shows_bar_students_and_rates() {
    for columns in [60, 80, 120] {
        let rows = screen(columns, &child::on_terminal(columns, "training, killed", ""));
        let image = rows.join("\n");
        let one = |part: &str| only_row(&rows, part);
        let (bar, text) = one("step 24/40");
        assert!(text.contains("60%") && text.contains("gone") && text.contains("00:00:01 left"));
        let (student, text) = one("vith16 ");
        assert!(text.contains("loss 0.") && text.contains("class 0."), "{image}");
        let (rates, text) = one("images/s");
        assert!(text.contains("800.0") && text.contains("data wait 2%"), "{image}");
        let lines = [one("indexing shards: done").0, one(" warning: an image does not decode").0];
        assert!(lines.is_sorted() && lines[1] < bar, "log lines come first:\n{image}");
        assert_eq!([student, one("vit1b16 ").0, rates], [bar + 1, bar + 2, bar + 3], "{image}");
    }
}

/// Protects the end of a run on a terminal: the bars are gone, a line says how far it came.
#[test]
fn terminal_keeps_a_line_of_the_last_step() {
    let rows = screen(160, &child::on_terminal(160, "training", ""));
    let (last, text) = only_row(&rows, "training step=24 total_steps=40");
    assert!(text.contains("vith16 0.") && text.contains("vit1b16 0."), "{text}");
    assert!(only_row(&rows, "saved a checkpoint step=24").0 > last);
    assert!(rows.iter().all(|row| !row.contains("images/s")), "{}", rows.join("\n"));
}

/// The row that contains `part` and its number; there has to be one.
fn only_row<'rows>(rows: &'rows [String], part: &str) -> (usize, &'rows str) {
    let found: Vec<_> = rows.iter().enumerate().filter(|(_, row)| row.contains(part)).collect();
    assert_eq!(found.len(), 1, "rows with `{part}` in\n{}", rows.join("\n"));
    (found[0].0, found[0].1)
}

/// Protects JSON lines on a terminal from bars drawn among them.
#[test]
fn json_lines_turn_the_bars_off() {
    let output = child::on_terminal(80, "training", "--log-format json");
    let text = String::from_utf8(output.stdout).unwrap();
    let objects: Vec<_> = text.lines().filter(|line| line.starts_with('{')).collect();
    assert_eq!(objects.len(), 7, "{text}");
    for object in objects {
        serde_json::from_str::<Value>(object.trim_end()).expect("a JSON line");
    }
    assert!(!text.contains('\x1b'), "{text:?}");
}

/// Protects the choice of levels: the option wins over `RUST_LOG`, which wins over the default,
/// and one that cannot be understood is an error of the user.
#[test]
fn levels_come_from_the_option_then_the_environment() {
    let seen = |arguments: &str, rust_log: &str| {
        let mut command = child::command("levels", arguments);
        command.env("RUST_LOG", rust_log);
        let log = log_of(command);
        let all = ["at error", "at warn", "at info", "at debug", "of a library"];
        all.map(|message| log.contains(message))
    };
    assert_eq!(seen("", ""), [true, true, true, false, false]);
    assert_eq!(seen("--log-level debug", "error"), [true, true, true, true, false]);
    assert_eq!(seen("--log-level error", "debug"), [true, false, false, false, false]);
    assert_eq!(seen("", "off,library=info"), [false, false, false, false, true]);

    let output = child::command("levels", "").env("RUST_LOG", "distill=loud").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains(child::REFUSED) && text.contains("RUST_LOG: found `distill=loud`"),
        "{text}"
    );
}

/// Protects the view on a thousand processes: those after rank 0 only warn and draw no bars, where
/// nothing else was asked for.
#[test]
fn ranks_after_the_first_are_quiet() {
    let seen = |rank: &str, arguments: &str| {
        let mut command = child::command("levels", arguments);
        command.envs([("RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_RANK", rank)]);
        command.envs([("LOCAL_WORLD_SIZE", "2"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "1")]);
        let log = log_of(command);
        ["at error", "at warn", "at info"].map(|message| log.contains(message))
    };
    assert_eq!(seen("0", ""), [true, true, true]);
    assert_eq!(seen("1", ""), [true, true, false]);
    assert_eq!(seen("1", "--log-level info"), [true, true, true]);
    assert_eq!(seen("2", ""), [true, true, true], "a place that makes no sense is told elsewhere");
}
