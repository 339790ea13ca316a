//! A run as plain text, for what is no terminal.

use std::convert::Infallible;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::facts;
use super::frame::draw;
use super::view::View;
use super::watched::Watched;

/// Newest warnings that a summary tells.
const TOLD_WARNINGS: usize = 5;

/// What is known of a run at `now`, a line each.
pub fn summary(watched: &Watched, now: f64) -> String {
    let (state, _) = facts::state(watched, now);
    let mut lines = vec![("run", watched.path().display().to_string()), ("state", state)];
    lines.push(("progress", facts::progress(watched)));
    lines.extend(facts::time_left(watched).map(|left| ("left", left)));
    lines.extend(facts::last_line(watched, now).map(|age| ("last line", age)));
    lines.extend(facts::facts(watched));
    let mut text: String =
        lines.iter().map(|(name, value)| format!("{name:16} {}\n", printable(value))).collect();
    let trainees = watched.last.iter().flat_map(|line| &line.metrics.trainees);
    for trainee in trainees {
        let name = format!("loss of {}", printable(&trainee.name));
        text += &format!("{name:16} {}\n", printable(&facts::of_trainee(trainee)));
    }
    for figure in facts::figures(watched) {
        let facts::Figure { evaluation, encoder, metric, value, step } = figure;
        let step = step.map_or(String::new(), |step| format!(" (step {step})"));
        text += &printable(&format!("{evaluation:16} {encoder}, {metric}: {value}{step}"));
        text.push('\n');
    }
    let newest = watched.warnings.len().saturating_sub(TOLD_WARNINGS);
    for warning in watched.warnings.iter().skip(newest) {
        text += &format!("{:16} {}\n", "log", printable(warning));
    }
    text
}

/// What [`draw`] draws on a screen of this width and height, in characters alone.
pub fn frame_as_text(watched: &Watched, view: &View, now: f64, size: (u16, u16)) -> String {
    let (width, height) = size;
    let drawn = || -> Result<String, Infallible> {
        let mut terminal = Terminal::new(TestBackend::new(width, height))?;
        terminal.draw(|frame| draw(frame, watched, view, now))?;
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        Ok((0..height).map(|y| format!("{}\n", row(y).trim_end())).collect())
    };
    drawn().unwrap_or_else(|never| match never {})
}

/// `text` without what moves a terminal: names come from files.
fn printable(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { ' ' } else { one }).collect()
}
