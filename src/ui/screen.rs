//! The terminal below the log lines, shared by everything that draws there.

use std::io::{self, Write};
use std::sync::LazyLock;
use std::time::Duration;

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// The bars on standard error. They are drawn only where that is a terminal.
pub fn bars() -> &'static MultiProgress {
    &BARS
}

/// Whether bars are seen: standard error is a terminal and [`hide`] was not called.
pub fn is_drawn() -> bool {
    !BARS.is_hidden()
}

/// Draws no bars from here on, even on a terminal.
pub fn hide() {
    BARS.set_draw_target(ProgressDrawTarget::hidden());
}

/// Standard error for whole lines: the bars make way for each write and come back below it.
#[derive(Debug, Clone, Copy)]
pub struct AboveBars;

impl Write for AboveBars {
    /// What cannot be written is dropped: a terminal that is gone, a pipe that nobody reads and a full disk end
    /// no run.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let write = || _ = io::stderr().write_all(bytes);
        if is_drawn() && BARS.clear().is_err() {
            hide();
        }
        match is_drawn() {
            true => BARS.suspend(write),
            false => write(),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Work other than training steps that takes a while, such as indexing shards: a bar or a
/// spinner on a terminal, a log line at the beginning elsewhere, and a log line at the end.
#[derive(Debug)]
pub struct Phase {
    label: String,
    bar: ProgressBar,
}

impl Phase {
    /// Begins work of `total` pieces, or of an unknown number. `label` says what is done, such as
    /// `indexing shards`.
    pub fn begin(label: &str, total: Option<u64>) -> Self {
        if !is_drawn() {
            tracing::info!(total, "{label}");
        }
        let bar = match total {
            Some(total) => ProgressBar::new(total)
                .with_style(style("{prefix:.bold} {wide_bar:.cyan/238} {human_pos}/{human_len}")),
            None => ProgressBar::no_length().with_style(style("{spinner:.cyan} {prefix:.bold} …")),
        };
        Self::shown(label, bar)
    }

    /// Begins work on so many bytes, each of which is a piece.
    pub fn of_bytes(label: &str, total: u64) -> Self {
        if !is_drawn() {
            tracing::info!(bytes = %HumanBytes(total), "{label}");
        }
        let template =
            "{prefix:.bold} {wide_bar:.cyan/238} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
        Self::shown(label, ProgressBar::new(total).with_style(style(template)))
    }

    fn shown(label: &str, bar: ProgressBar) -> Self {
        let bar = BARS.add(bar.with_prefix(label.to_string()));
        bar.enable_steady_tick(TICK);
        Self { label: label.to_string(), bar }
    }

    /// `pieces` more are done.
    pub fn advance(&self, pieces: u64) {
        self.bar.inc(pieces);
    }

    /// Clears the bar and logs that the work is done and how long it took.
    pub fn finish(self) {
        let seconds = (self.bar.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        self.bar.finish_and_clear();
        tracing::info!(seconds, "{}: done", self.label);
    }
}

/// How often a bar is drawn again while nothing happens, so that its clock goes on.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// A style from a template of this crate.
pub(super) fn style(template: &'static str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the template is valid")
        .progress_chars("━╸━")
        .tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ")
}
