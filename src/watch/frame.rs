//! The screen as a whole: how far the run is above, a page, keys below.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{LineGauge, Paragraph};

use super::facts;
use super::panels::{self, WIDE};
use super::view::{Panel, View};
use super::watched::Watched;

/// Fewer rows or columns show one line of words alone.
const LEAST: (u16, u16) = (24, 10);

/// Draws what is known of a run at `now`, in seconds since 1970.
pub fn draw(frame: &mut Frame, watched: &Watched, view: &View, now: f64) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!("{}, {}", facts::progress(watched), facts::state(watched, now).0);
        let words = Paragraph::new(text).wrap(ratatui::widgets::Wrap { trim: true });
        return frame.render_widget(words, area);
    }
    let head = head(watched, now, area.width);
    let rows = [
        Constraint::Length(head.len() as u16),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ];
    let [top, gauge, tabs, page, keys] = Layout::vertical(rows).areas(area);
    frame.render_widget(Paragraph::new(head), top);
    let bar = LineGauge::default()
        .ratio(facts::done(watched))
        .filled_symbol("━")
        .unfilled_symbol("─")
        .filled_style(Style::new().fg(Color::Cyan))
        .label("");
    frame.render_widget(bar, gauge);
    frame.render_widget(Paragraph::new(tab_line(view, area.width)), tabs);
    draw_page(frame, page, watched, view);
    let text = match area.width >= WIDE {
        true => "q leave   Tab panel   ←→ student   ↑↓ scroll   ? help",
        false => "q leave  Tab panel  ←→  ?",
    };
    frame.render_widget(Paragraph::new(text).style(Style::new().dim()), keys);
}

fn draw_page(frame: &mut Frame, page: Rect, watched: &Watched, view: &View) {
    match view.panel {
        _ if view.shows_help => panels::help(frame, page),
        Panel::Overview => panels::overview(frame, page, watched, view),
        Panel::Losses => panels::all_losses(frame, page, watched, view),
        Panel::Rates => panels::rates(frame, page, watched),
        Panel::Evaluations => panels::evaluations(frame, page, watched, view),
        Panel::Log => panels::log(frame, page, watched, view),
    }
}

/// What the run is and how far it is: two lines, or three where there is little room.
fn head(watched: &Watched, now: f64, width: u16) -> Vec<Line<'static>> {
    let (state, is_bad) = facts::state(watched, now);
    let style = match is_bad {
        true => Style::new().fg(Color::Red).bold(),
        false => Style::new().fg(Color::Green),
    };
    let name = Span::styled(watched.name(), Style::new().bold());
    let state = Span::styled(state, style);
    let progress = facts::progress(watched);
    let left = facts::time_left(watched).map(|left| format!("{left} left"));
    let line = facts::last_line(watched, now).map(|age| format!("last line {age}"));
    let gap = || Span::raw("   ");
    if width >= WIDE {
        let times: Vec<String> = [Some(progress), left, line].into_iter().flatten().collect();
        return vec![Line::from(vec![name, gap(), state]), Line::raw(times.join("   "))];
    }
    let times: Vec<String> = [left, line].into_iter().flatten().collect();
    vec![Line::from(vec![name, gap(), state]), Line::raw(progress), Line::raw(times.join("  "))]
}

/// The pages' names; short ones where there is little room.
fn tab_line(view: &View, width: u16) -> Line<'static> {
    let spans = (1..).zip(Panel::ALL).flat_map(|(number, panel)| {
        let title = panel.title();
        let title = if width >= WIDE { title } else { &title[..4.min(title.len())] };
        let style = match panel == view.panel {
            true => Style::new().reversed(),
            false => Style::new(),
        };
        [Span::styled(format!(" {number} {title} "), style), Span::raw("")]
    });
    Line::from(spans.collect::<Vec<_>>())
}
