//! The program on a pseudo-terminal, whose screen a test reads and whose keys it presses.

use std::io::{Read, Write};
use std::num::NonZero;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// A screen that does not come in this time never comes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A command under `script`, which gives it a terminal.
pub(super) struct OnTerminal {
    child: Child,
    screen: Arc<Mutex<vt100::Parser>>,
    reader: Option<JoinHandle<()>>,
}

impl OnTerminal {
    /// Runs a line of shell on a terminal of this size.
    pub(super) fn run(line: &str, (columns, rows): (u16, u16)) -> Self {
        let size = |length| NonZero::new(length).expect("not zero");
        let screen = vt100::Parser::new(size(rows), size(columns), 0);
        let screen = Arc::new(Mutex::new(screen));
        let mut child = Command::new("script")
            .args(["--quiet", "--return", "--command"])
            .arg(format!("stty cols {columns} rows {rows}; {line}"))
            .arg("/dev/null")
            .env("TERM", "xterm-256color")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`script` runs (Debian package bsdutils)");
        let mut output = child.stdout.take().unwrap();
        let read = screen.clone();
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                read.lock().unwrap().process(&bytes[..count]);
            }
        });
        Self { child, screen, reader: Some(reader) }
    }

    /// `distill watch` of a run on a terminal of this size, and what the terminal's settings are afterwards.
    pub(super) fn watch(run: &Path, size: (u16, u16)) -> Self {
        let program = crate::support::device::program();
        let line =
            format!("'{}' watch '{}'; echo ended $?; stty -a", program.display(), run.display());
        Self::run(&line, size)
    }

    pub(super) fn press(&mut self, keys: &str) {
        self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until the screen has all of `parts`, and gives it.
    #[track_caller]
    pub(super) fn shows(&self, parts: &[&str]) -> String {
        let begun = Instant::now();
        loop {
            let text = self.text();
            let missing = parts.iter().find(|part| !text.contains(**part));
            let Some(missing) = missing else { return text };
            assert!(begun.elapsed() < PATIENCE, "`{missing}` is not on the screen:\n{text}");
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the screen of before and the cursor are hidden, or both shown.
    #[track_caller]
    pub(super) fn is_taken(&self, expected: bool) {
        let begun = Instant::now();
        let state = || {
            let parser = self.screen.lock().unwrap();
            [parser.screen().alternate_screen(), parser.screen().hide_cursor()]
        };
        while state() != [expected; 2] {
            let state = state();
            assert!(begun.elapsed() < PATIENCE, "alternate screen, hidden cursor: {state:?}");
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the end, and asserts that the terminal is as it was. What stands on it then.
    #[track_caller]
    pub(super) fn ends_restored(mut self) -> String {
        let text = self.shows(&["ended", "-iutf8"]);
        let settings = text.split_once("ended").unwrap().1;
        let settings: Vec<&str> = settings.split_whitespace().collect();
        for cooked in ["icanon", "echo", "isig"] {
            assert!(settings.contains(&cooked), "`{cooked}` is not in the settings: {settings:?}");
        }
        self.is_taken(false);
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
        text
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // What runs on the terminal is hung up.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.reader.take().map(JoinHandle::join);
    }
}
