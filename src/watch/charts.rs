//! Curves over steps, in as many places as a screen has.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType, Paragraph, Sparkline};

use super::facts;

/// Colours of what is trained, in turn.
pub const COLOURS: [Color; 6] =
    [Color::Cyan, Color::Yellow, Color::Magenta, Color::Green, Color::Blue, Color::Red];
/// Braille has two columns of dots in a character.
const DOTS: u16 = 2;
/// Levels of a sparkline.
const LEVELS: f64 = 1000.0;

/// A curve: a step and a value for each point, ascending.
pub type Curve = Vec<(f64, f64)>;

/// Means of `curve` in `places` parts of equal length; parts without a finite value have none.
pub fn in_places(curve: &[(f64, f64)], places: u16) -> Curve {
    let (Some(first), Some(last)) = (curve.first(), curve.last()) else { return Vec::new() };
    let width = ((last.0 - first.0) / f64::from(places.max(1))).max(f64::MIN_POSITIVE);
    let mut sums = vec![(0.0, 0.0, 0u32); usize::from(places.max(1))];
    for (step, value) in curve.iter().filter(|(_, value)| value.is_finite()) {
        let place = (((step - first.0) / width) as usize).min(sums.len() - 1);
        let (steps, values, count) = &mut sums[place];
        (*steps, *values, *count) = (*steps + step, *values + value, *count + 1);
    }
    let filled = sums.into_iter().filter(|(.., count)| *count > 0);
    filled.map(|(step, value, count)| (step / f64::from(count), value / f64::from(count))).collect()
}

/// Draws curves with their colours over common axes.
pub fn draw_curves(frame: &mut Frame, area: Rect, title: Line, curves: &[(Color, Curve)]) {
    let block = Block::bordered().title(title);
    let places = area.width.saturating_sub(10) * DOTS;
    let thinned: Vec<Curve> = curves.iter().map(|(_, curve)| in_places(curve, places)).collect();
    let values = range(thinned.iter().flatten().map(|point| point.1));
    let ends = curves.iter().flat_map(|(_, curve)| curve.first().into_iter().chain(curve.last()));
    let (Some([low, high]), Some(steps)) = (values, range(ends.map(|point| point.0))) else {
        frame.render_widget(Paragraph::new("nothing to draw yet").block(block), area);
        return;
    };
    // A flat curve stands in the middle.
    let margin = if high > low { 0.05 * (high - low) } else { high.abs().max(1e-6) * 0.1 };
    let values = [low - margin, high + margin];
    let steps = if steps[0] < steps[1] { steps } else { [steps[0] - 1.0, steps[0] + 1.0] };
    let label = |value: f64| Span::raw(facts::number(value));
    let step = |value: f64| Span::raw(indicatif::HumanCount(value.max(0.0) as u64).to_string());
    let sets = curves.iter().zip(&thinned).map(|((colour, _), points)| {
        let style = Style::new().fg(*colour);
        Dataset::default()
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(style)
            .data(points)
    });
    let chart = Chart::new(sets.collect())
        .block(block)
        .x_axis(Axis::default().bounds(steps).labels([step(steps[0]), step(steps[1])]))
        .y_axis(Axis::default().bounds(values).labels([label(values[0]), label(values[1])]))
        .legend_position(None);
    frame.render_widget(chart, area);
}

/// The lowest and the highest of `values`.
fn range(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    values
        .map(|value| [value; 2])
        .reduce(|[low, high], [value, _]| [low.min(value), high.max(value)])
}

/// Draws a name, a value, and how it came to be that, from nothing to its highest, in a line or more.
pub fn draw_spark(
    frame: &mut Frame,
    area: Rect,
    (title, value): (&str, &str),
    curve: &[(f64, f64)],
) {
    let words = if area.width >= 60 { 36 } else { area.width };
    let [left, right] =
        Layout::horizontal([Constraint::Length(words), Constraint::Fill(1)]).areas(area);
    let text = Line::from(vec![
        Span::raw(format!("{title:14} ")),
        Span::styled(value.to_string(), Style::new().bold()),
    ]);
    frame.render_widget(Paragraph::new(text), left);
    let right = if right.width > 0 {
        right
    } else {
        // No room beside the words: below them.
        Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area }
    };
    if right.height == 0 {
        return;
    }
    let points = in_places(curve, right.width);
    let highest = points.iter().map(|point| point.1).fold(0.0, f64::max);
    let level = |(_, value): &(f64, f64)| (value / highest.max(1e-300) * LEVELS).max(0.0) as u64;
    let spark = Sparkline::default()
        .data(points.iter().map(level).collect::<Vec<_>>())
        .max(LEVELS as u64)
        .style(Style::new().fg(Color::Cyan));
    frame.render_widget(spark, right);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every place is the mean of its points, whatever is not finite is left out, and few points stay as they are.
    #[test]
    fn curves_are_thinned_to_means() {
        let curve: Curve = (0..100).map(|step| (f64::from(step), f64::from(step % 2))).collect();
        let thinned = in_places(&curve, 10);
        assert_eq!(thinned.len(), 10);
        assert!(thinned.iter().all(|(_, value)| (value - 0.5).abs() < 0.1), "{thinned:?}");
        let few = vec![(1.0, 2.0), (5.0, f64::NAN), (9.0, 4.0)];
        assert_eq!(in_places(&few, 50), [(1.0, 2.0), (9.0, 4.0)]);
        assert_eq!(in_places(&[(3.0, 1.0)], 7), [(3.0, 1.0)]);
        assert_eq!(in_places(&[], 7), []);
    }
}
