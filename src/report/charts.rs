//! Curves over steps, as SVG.

use anyhow::{Result, anyhow};
use indicatif::HumanCount;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

use super::curve::{self, Point};
use crate::ui::numbers::significant;

/// Colours of curves, told apart by most of those who see colours differently too (Okabe and Ito).
pub const COLOURS: [(u8, u8, u8); 7] = [
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (80, 80, 80),
];

/// Drawn this many times as large as shown, because places are whole numbers.
const FINE: u32 = 8;
/// Most points across a curve are worth twice as many.
const PARTS: usize = 800;
/// Below this number each measurement gets a dot.
const DOTTED_BELOW: usize = 20;
const GRID: RGBColor = RGBColor(228, 228, 228);
const AXIS: RGBColor = RGBColor(150, 150, 150);
const TEXT: RGBColor = RGBColor(70, 70, 70);

/// How values go up the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from zero on.
    FromZero,
    /// By their logarithm, where all are above zero and some is three times another; else evenly.
    LogWhereUseful,
}

/// Curves in one image. In each chart they have the [`COLOURS`] in order.
pub struct Chart {
    /// Width and height of the image, in pixels of the page.
    pub size: (u32, u32),
    pub scale: Scale,
    /// Curves as measured are pale, and smooth ones bold.
    pub is_noisy: bool,
    pub curves: Vec<Vec<Point>>,
}

/// Number of measurements that each point of a bold curve is smoothed over; 1 where none is.
pub fn smoothed_over(curves: &[Vec<Point>]) -> usize {
    curves.iter().map(|curve| 2 * curve::reach(curve.len()) + 1).max().unwrap_or(1)
}

/// The chart as an SVG element; `None` where there is nothing to draw.
pub fn draw(chart: &Chart) -> Result<Option<String>> {
    if chart.curves.iter().all(Vec::is_empty) {
        return Ok(None);
    }
    let mut svg = String::new();
    plot(chart, &mut svg).map_err(|error| anyhow!("cannot draw a chart: {error}"))?;
    Ok(Some(svg))
}

fn plot(chart: &Chart, svg: &mut String) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let (width, height) = chart.size;
    let area = SVGBackend::with_string(svg, (width * FINE, height * FINE)).into_drawing_area();
    let points = || chart.curves.iter().flatten();
    let mut context = ChartBuilder::on(&area)
        .margin(6 * FINE)
        .margin_right(16 * FINE)
        .x_label_area_size(26 * FINE)
        .y_label_area_size(56 * FINE)
        .build_cartesian_2d(
            Axis::of_steps(points().map(|point| point.0), width),
            Axis::of_values(points().map(|point| point.1), chart.scale),
        )?;
    context
        .configure_mesh()
        .bold_line_style(GRID.stroke_width(FINE))
        .light_line_style(TRANSPARENT)
        .axis_style(AXIS.stroke_width(FINE))
        .label_style(("sans-serif", 15 * FINE).into_font().color(&TEXT))
        .set_all_tick_mark_size(4 * FINE)
        .x_label_formatter(&|step| HumanCount(*step as u64).to_string())
        .y_label_formatter(&|value| significant(*value, 3))
        .draw()?;
    for (number, points) in chart.curves.iter().enumerate() {
        let (red, green, blue) = COLOURS[number % COLOURS.len()];
        let colour = RGBColor(red, green, blue);
        let reach = if chart.is_noisy { curve::reach(points.len()) } else { 0 };
        if reach > 0 {
            let pale = colour.mix(0.3).stroke_width(FINE);
            context.draw_series(LineSeries::new(curve::thin(points, PARTS), pale))?;
        }
        let dot = if points.len() < DOTTED_BELOW { 3 * FINE } else { 0 };
        let smooth = curve::thin(&curve::smooth(points, reach), PARTS);
        let bold = LineSeries::new(smooth, colour.filled().stroke_width(2 * FINE));
        context.draw_series(bold.point_size(dot))?;
    }
    area.present()
}

/// Where numbers lie along one side of a chart, and which of them are written there. (The plotting
/// library's logarithmic axis names powers of ten alone, of which most losses cross one or none.)
struct Axis {
    low: f64,
    high: f64,
    is_logarithmic: bool,
    ticks: Vec<f64>,
}

impl Axis {
    /// From step 0 to the last, on a chart of this width in pixels.
    fn of_steps(steps: impl Iterator<Item = f64>, width: u32) -> Self {
        let high = steps.fold(1.0, f64::max);
        let mut ticks = round_numbers(0.0, high, (width / 110) as usize);
        ticks.retain(|step| step.fract() == 0.0);
        Self { low: 0.0, high, is_logarithmic: false, ticks }
    }

    /// Around `values`, of which there are some.
    fn of_values(values: impl Iterator<Item = f64>, scale: Scale) -> Self {
        const MOST: usize = 7;
        let ends = |(low, high): (f64, f64), value: f64| (low.min(value), high.max(value));
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), ends);
        if scale == Scale::LogWhereUseful && low > 0.0 && high >= 3.0 * low {
            let room = (high / low).powf(0.05);
            let (low, high) = (low / room, high * room);
            let ticks = round_ratios(low, high, MOST);
            return Self { low, high, is_logarithmic: true, ticks };
        }
        let is_on_zero = scale == Scale::FromZero && low >= 0.0;
        let low = if is_on_zero { 0.0 } else { low };
        // A constant needs room too.
        let room = if high > low { 0.05 * (high - low) } else { 0.1 * high.abs().max(1e-6) };
        let (low, high) = (if is_on_zero { low } else { low - room }, high + room);
        Self { low, high, is_logarithmic: false, ticks: round_numbers(low, high, MOST) }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let place = |value: f64| if self.is_logarithmic { value.ln() } else { value };
        let share = (place(*value) - place(self.low)) / (place(self.high) - place(self.low));
        from + (share * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.low..self.high
    }
}

/// At most `most` (from 2) multiples of 1, 2, 2.5 or 5 times a power of ten from `low` to `high`.
fn round_numbers(low: f64, high: f64, most: usize) -> Vec<f64> {
    let least = (high - low) / (most - 1) as f64;
    let power = 10_f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0].map(|factor| factor * power);
    let step = steps.into_iter().find(|step| *step >= least).unwrap_or(10.0 * power);
    let multiples = (low / step).ceil() as i64..=(high / step).floor() as i64;
    multiples.map(|multiple| multiple as f64 * step).collect()
}

/// Between 3 and `most` numbers from `low` to `high`, both above zero, with about the same ratio
/// between neighbours; evenly spread ones where there are none such.
fn round_ratios(low: f64, high: f64, most: usize) -> Vec<f64> {
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let powers = |mantissas: &'static [f64]| {
        let in_decade =
            |decade| mantissas.iter().map(move |mantissa| mantissa * 10_f64.powi(decade));
        let values = decades.clone().flat_map(in_decade);
        values.filter(|value| (low..=high).contains(value)).collect::<Vec<f64>>()
    };
    for mantissas in [&[1.0, 2.0, 5.0][..], &[1.0, 3.0]] {
        let ticks = powers(mantissas);
        if (3..=most).contains(&ticks.len()) {
            return ticks;
        }
    }
    let tens = powers(&[1.0]);
    if tens.len() < 3 {
        return round_numbers(low, high, most);
    }
    let every = tens.len().div_ceil(most);
    tens.into_iter().step_by(every).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The points of the SVG's bold curves, in drawing units.
    fn bold_curves(svg: &str) -> Vec<Vec<(f64, f64)>> {
        let width = format!("stroke-width=\"{}\"", 2 * FINE);
        let points = |line: &str| {
            let text = line.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
            let pair = |pair: &str| {
                let (x, y) = pair.split_once(',').unwrap();
                (x.parse().unwrap(), y.parse().unwrap())
            };
            text.split_whitespace().map(pair).collect()
        };
        let is_bold = |line: &&str| line.starts_with("<polyline") && line.contains(&width);
        svg.lines().filter(is_bold).map(points).collect()
    }

    fn svg(scale: Scale, curves: Vec<Vec<Point>>) -> Option<String> {
        draw(&Chart { size: (400, 200), scale, is_noisy: true, curves }).unwrap()
    }

    /// Values lie where their logarithms say: equal ratios are equal heights, more is higher, and
    /// steps go evenly to the right.
    #[test]
    fn equal_ratios_are_equal_heights() {
        let halving = (1..6).map(|step| (f64::from(step), 0.5_f64.powi(step))).collect();
        let drawn = bold_curves(&svg(Scale::LogWhereUseful, vec![halving]).unwrap());
        assert_eq!(drawn[0].len(), 5);
        let moves: Vec<_> =
            drawn[0].windows(2).map(|two| (two[1].0 - two[0].0, two[1].1 - two[0].1)).collect();
        for (right, down) in &moves {
            assert!(*right > 0.0 && *down > 0.0, "to the right and down: {moves:?}");
            assert!((right - moves[0].0).abs() <= 1.0 && (down - moves[0].1).abs() <= 1.0);
        }
    }

    /// Each curve is drawn in its own colour, zero is the lower edge, and nothing is drawn of nothing.
    #[test]
    fn curves_are_told_apart() {
        let curves = vec![vec![(0.0, 0.0), (4.0, 4.0)], Vec::new(), vec![(0.0, 2.0), (4.0, 2.0)]];
        let svg_text = svg(Scale::FromZero, curves).unwrap();
        let drawn = bold_curves(&svg_text);
        let ((_, bottom), (_, middle)) = (drawn[0][0], drawn[drawn.len() - 1][0]);
        let top = drawn[0][1].1;
        assert!((bottom + top - 2.0 * middle).abs() <= 2.0, "{bottom} {middle} {top}");
        assert!(svg_text.contains("#0072B2") && svg_text.contains("#009E73"), "{svg_text}");
        assert!(!svg_text.contains("#D55E00"), "the second curve has no points");
        assert!(svg(Scale::FromZero, vec![Vec::new()]).is_none());
    }

    /// An axis names round numbers, few and some, whatever the values are.
    #[test]
    fn axes_have_round_numbers() {
        assert_eq!(round_numbers(0.0, 300.0, 8), [0.0, 50.0, 100.0, 150.0, 200.0, 250.0, 300.0]);
        assert_eq!(round_ratios(0.06, 1.1, 7), [0.1, 0.2, 0.5, 1.0]);
        assert_eq!(round_ratios(0.5, 900.0, 7).len(), 6, "1, 3, 10, 30, 100, 300");
        for (low, high) in [(0.31, 0.95), (1e-9, 3.0), (0.6, 1.9), (1e-30, 1e30), (2.0, 6.1)] {
            let ticks = round_ratios(low, high, 7);
            assert!((2..=8).contains(&ticks.len()), "{low} to {high}: {ticks:?}");
            assert!(ticks.iter().all(|tick| (low..=high).contains(tick)), "{ticks:?}");
        }
        let constant = Axis::of_values([0.25; 3].into_iter(), Scale::LogWhereUseful);
        assert!(constant.low < 0.25 && 0.25 < constant.high && !constant.ticks.is_empty());
    }
}
