//! The pages, each in the place that the frame leaves it.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, Wrap};

use super::charts::{COLOURS, Curve, draw_curves, draw_spark};
use super::facts::{self, Figure};
use super::view::{KEYS, View};
use super::watched::{Measure, Watched};

/// Fewer columns have no room for two things side by side.
pub const WIDE: u16 = 64;
/// Columns of names and values beside a chart: the fewest and the most.
const FACTS: (u16, u16) = (34, 52);

/// Loss of the chosen trainee, figures of the newest step, and the newest of everything else.
pub fn overview(frame: &mut Frame, area: Rect, watched: &Watched, view: &View) {
    let news = news(watched);
    let rows = (news.len() as u16 + 2).clamp(3, (area.height / 3).max(3));
    let [upper, lower] =
        Layout::vertical([Constraint::Fill(1), Constraint::Length(rows)]).areas(area);
    let known = facts::facts(watched);
    let (chart, words) = match area.width >= WIDE {
        true => {
            let columns = Constraint::Length((area.width * 2 / 5).clamp(FACTS.0, FACTS.1));
            let [chart, words] = Layout::horizontal([Constraint::Fill(1), columns]).areas(upper);
            (chart, words)
        }
        false => {
            let height = (known.len() as u16 + 2).min(upper.height / 2);
            let [chart, words] =
                Layout::vertical([Constraint::Fill(1), Constraint::Length(height)]).areas(upper);
            (chart, words)
        }
    };
    loss_of_one(frame, chart, watched, view);
    let lines = known.iter().map(|(name, value)| {
        Line::from(vec![
            Span::raw(format!("{name:14} ")),
            Span::styled(value.clone(), Style::new().bold()),
        ])
    });
    let words_block = Block::bordered().title("newest step");
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(words_block), words);
    let block = Block::bordered().title("evaluations and warnings");
    frame.render_widget(Paragraph::new(news).block(block), lower);
}

/// The newest figures and warnings, a line each.
fn news(watched: &Watched) -> Vec<Line<'static>> {
    let mut lines: Vec<Line> =
        facts::figures(watched).iter().take(3).map(|figure| in_a_line(figure).into()).collect();
    if let Some(slowest) = watched.last.as_ref().and_then(|line| line.metrics.slowest_rank.as_ref())
        && slowest.is_straggler()
    {
        lines.push(warning(format!("rank {} holds the others up", slowest.rank)));
    }
    lines.extend(watched.warnings.iter().rev().take(2).map(|text| warning(text.clone())));
    if lines.is_empty() {
        lines.push("none yet".into());
    }
    lines
}

fn warning(text: String) -> Line<'static> {
    Line::styled(text, Style::new().fg(Color::Yellow))
}

fn in_a_line(figure: &Figure) -> String {
    let Figure { evaluation, encoder, metric, value, step } = figure;
    let step = step.map_or(String::new(), |step| format!("  (step {step})"));
    format!("{evaluation}  {encoder}  {metric} {value}{step}")
}

fn loss_of_one(frame: &mut Frame, area: Rect, watched: &Watched, view: &View) {
    let place = view.trainee % watched.names.len().max(1);
    let Some(name) = watched.names.get(place) else {
        draw_curves(frame, area, "loss".into(), &[]);
        return;
    };
    let loss = watched.points.last().map_or(f64::NAN, |point| point.losses[place]);
    let mut title = vec![
        Span::raw("loss of "),
        Span::styled(name.clone(), Style::new().fg(colour(place)).bold()),
        Span::raw(format!(": {}", facts::number(loss))),
    ];
    if watched.names.len() > 1 {
        title.push(Span::raw(format!("  ({} of {})", place + 1, watched.names.len())));
    }
    draw_curves(frame, area, title.into(), &[(colour(place), losses(watched, place))]);
}

fn colour(place: usize) -> Color {
    COLOURS[place % COLOURS.len()]
}

fn losses(watched: &Watched, place: usize) -> Curve {
    watched.points.iter().map(|point| (point.step as f64, point.losses[place])).collect()
}

/// All losses over one another, and each with its terms.
pub fn all_losses(frame: &mut Frame, area: Rect, watched: &Watched, view: &View) {
    let trainees = watched.last.as_ref().map_or(&[][..], |line| &line.metrics.trainees);
    let chosen = view.trainee % trainees.len().max(1);
    let mut lines = Vec::new();
    for (place, trainee) in trainees.iter().enumerate() {
        let mark = if place == chosen { "> " } else { "  " };
        lines.push(Line::from(vec![
            Span::raw(mark),
            Span::styled(trainee.name.clone(), Style::new().fg(colour(place)).bold()),
            Span::raw(format!("  {}", facts::of_trainee(trainee))),
        ]));
    }
    let rows =
        (lines.len() as u16 * if area.width >= WIDE { 1 } else { 2 } + 2).min(area.height / 2);
    let [upper, lower] =
        Layout::vertical([Constraint::Fill(1), Constraint::Length(rows)]).areas(area);
    let curves = (0..trainees.len()).map(|place| (colour(place), losses(watched, place)));
    draw_curves(frame, upper, "losses".into(), &curves.collect::<Vec<_>>());
    let words = Paragraph::new(lines).wrap(Wrap { trim: false }).scroll((view.scrolled, 0));
    frame.render_widget(words.block(Block::bordered().title("newest line")), lower);
}

/// What is told of speed and time, each over the steps.
pub fn rates(frame: &mut Frame, area: Rect, watched: &Watched) {
    let block = Block::bordered().title("rates and times, over the steps");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let Some(line) = &watched.last else {
        frame.render_widget(Paragraph::new("nothing to draw yet"), inner);
        return;
    };
    let curves = Measure::ALL.into_iter().enumerate().map(|(place, rate)| {
        let curve: Curve = watched
            .points
            .iter()
            .map(|point| (point.step as f64, f64::from(point.rates[place])))
            .filter(|point| point.1.is_finite())
            .collect();
        (rate, curve)
    });
    let told: Vec<(Measure, Curve)> = curves.filter(|(_, curve)| !curve.is_empty()).collect();
    let height = (inner.height / told.len().max(1) as u16).clamp(1, 4);
    for ((rate, curve), row) in told.into_iter().zip(0..) {
        let y = inner.y + row * height;
        if y + height > inner.bottom() {
            break;
        }
        let value = facts::in_words(rate, &line.metrics);
        let place = Rect { y, height, ..inner };
        draw_spark(frame, place, (facts::title(rate), &value), &curve);
    }
}

/// The newest figures, a row each.
pub fn evaluations(frame: &mut Frame, area: Rect, watched: &Watched, view: &View) {
    let block = Block::bordered().title("newest figures");
    let figures = facts::figures(watched);
    if figures.is_empty() {
        let text = "nothing is measured yet; [evaluation] in the config says what is, and when";
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }).block(block), area);
        return;
    }
    if area.width < WIDE {
        let lines = figures.iter().map(|figure| Line::raw(in_a_line(figure)));
        let text = Text::from(lines.collect::<Vec<_>>());
        let words = Paragraph::new(text).wrap(Wrap { trim: true }).scroll((view.scrolled, 0));
        frame.render_widget(words.block(block), area);
        return;
    }
    let rows = figures.into_iter().skip(view.scrolled.into()).map(|figure| {
        let Figure { evaluation, encoder, metric, value, step } = figure;
        let step = step.map_or("–".into(), |step| step.to_string());
        Row::new([evaluation, encoder, metric, value, step].map(Cell::from))
    });
    let head = ["evaluation", "encoder", "figure", "value", "step"];
    let widths = [3, 4, 4, 2, 2].map(Constraint::Fill);
    let table = Table::new(rows, widths).header(Row::new(head).style(Style::new().bold()));
    frame.render_widget(table.block(block), area);
}

/// Warnings and errors of the log, the newest first.
pub fn log(frame: &mut Frame, area: Rect, watched: &Watched, view: &View) {
    let (title, empty) = match watched.log() {
        Some(path) => (
            format!("warnings in {}, the newest first", path.display()),
            "no warning and no error so far".to_string(),
        ),
        None => (
            "warnings".to_string(),
            format!(
                "no log is read. A run logs to standard error: send that to a file, such as {}, or \
                 name the file by --log",
                watched.path().join("train.log").display()
            ),
        ),
    };
    let lines: Vec<Line> = match watched.warnings.is_empty() {
        true => vec![empty.into()],
        false => watched.warnings.iter().rev().map(|text| warning(text.clone())).collect(),
    };
    let words = Paragraph::new(lines).wrap(Wrap { trim: false }).scroll((view.scrolled, 0));
    frame.render_widget(words.block(Block::bordered().title(title)), area);
}

/// What keys do.
pub fn help(frame: &mut Frame, area: Rect) {
    let lines = KEYS.map(|(keys, what)| {
        let keys = Span::styled(format!("{keys:24}"), Style::new().bold());
        match area.width >= WIDE {
            true => vec![Line::from(vec![keys, Span::raw(what)])],
            false => vec![Line::from(keys), Line::raw(format!("  {what}"))],
        }
    });
    let words = Paragraph::new(lines.concat()).block(Block::bordered().title("keys"));
    frame.render_widget(words, area);
}
