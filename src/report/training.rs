//! How training went: curves over its steps.

use anyhow::Result;
use indicatif::HumanCount;
use maud::{Markup, PreEscaped, html};

use super::charts::{self, COLOURS, Chart, Scale};
use super::curve::Point;
use super::numbers::significant;
use super::run::{Record, Run, Trained};

/// Width and height of the loss curves, in pixels of the page.
const LARGE: (u32, u32) = (960, 340);
/// The same of the other curves.
const SMALL: (u32, u32) = (470, 220);

/// The section with all curves.
pub fn section(run: &Run) -> Result<Markup> {
    if run.records.is_empty() {
        return Ok(html! {
            section { h2 { "Training" } p { "No step is recorded yet." } }
        });
    }
    let names = run.trained();
    let per_encoder = |value: fn(&Trained) -> Option<f64>| -> Vec<Vec<Point>> {
        let of = |name: &&str| points(run, |record| value(record.of(name)?));
        names.iter().map(of).collect()
    };
    let of_run = |value: fn(&Record) -> Option<f64>| vec![points(run, value)];
    let losses = per_encoder(|trained| trained.loss);
    let over = charts::smoothed_over(&losses);
    let noisy =
        |title, size, scale, curves| figure(title, Chart { size, scale, is_noisy: true, curves });
    let rate = of_run(|record| record.learning_rate);
    let rate = Chart { size: SMALL, scale: Scale::FromZero, is_noisy: false, curves: rate };
    let speed = of_run(|record| record.images_per_second);
    let norms = per_encoder(|trained| trained.grad_norm);
    let class = per_encoder(|trained| trained.loss_class);
    let patch = per_encoder(|trained| trained.loss_patch);
    Ok(html! {
        section {
            h2 { "Training" }
            (legend(&names))
            (noisy("Loss", LARGE, Scale::LogWhereUseful, losses)?)
            @if over > 1 {
                p.note { "Pale: as recorded. Bold: smoothed over " (HumanCount(over as u64)) " records." }
            }
            (last_values(run, &names))
            div.pair {
                (figure("Learning rate", rate)?)
                (noisy("Images a second", SMALL, Scale::FromZero, speed)?)
                (noisy("Gradient norm", SMALL, Scale::LogWhereUseful, norms)?)
                @if has_parts(run) {
                    (noisy("Loss of the class tokens", SMALL, Scale::LogWhereUseful, class)?)
                    (noisy("Loss of the patch tokens", SMALL, Scale::LogWhereUseful, patch)?)
                }
            }
        }
    })
}

/// What is finite of a measurement, by step.
fn points(run: &Run, value: impl Fn(&Record) -> Option<f64>) -> Vec<Point> {
    let point = |record: &Record| Some((record.step as f64, value(record)?));
    run.records.iter().filter_map(point).collect()
}

/// Class and patch tokens have losses of their own.
fn has_parts(run: &Run) -> bool {
    let last = run.records.last().map_or(&[][..], |record| &record.students);
    last.iter().any(|student| student.loss_class.is_some() && student.loss_patch.is_some())
}

/// Which colour is whose.
fn legend(names: &[&str]) -> Markup {
    html! {
        p.legend {
            @for (number, name) in names.iter().enumerate() {
                @let (red, green, blue) = COLOURS[number % COLOURS.len()];
                span.entry {
                    span.swatch style=(format!("background:rgb({red},{green},{blue})")) {}
                    (name)
                }
            }
        }
    }
}

/// A chart with its title, or nothing where nothing was measured.
fn figure(title: &str, chart: Chart) -> Result<Markup> {
    let svg = charts::draw(&chart)?;
    Ok(html! {
        @if let Some(svg) = svg {
            figure.chart {
                figcaption { (title) " " small { "over steps" } }
                div role="img" aria-label=(format!("Curve: {title} over steps")) { (PreEscaped(svg)) }
            }
        }
    })
}

/// First and last recorded numbers of each encoder.
fn last_values(run: &Run, names: &[&str]) -> Markup {
    let (first, last) = (run.records.first(), run.records.last());
    let Some((first, last)) = first.zip(last) else { return Markup::default() };
    let cell = |value: Option<f64>| {
        html! { td.number { (value.map_or("–".into(), |value| significant(value, 4))) } }
    };
    let has_parts = has_parts(run);
    html! {
        table {
            thead {
                tr {
                    th { "Trained" }
                    th.number { "Loss at step " (HumanCount(first.step)) }
                    th.number { "Loss at step " (HumanCount(last.step)) }
                    @if has_parts { th.number { "Class tokens" } th.number { "Patch tokens" } }
                    th.number { "Gradient norm" }
                }
            }
            tbody {
                @for name in names {
                    @let last = last.of(name);
                    tr {
                        td { (name) }
                        (cell(first.of(name).and_then(|trained| trained.loss)))
                        (cell(last.and_then(|trained| trained.loss)))
                        @if has_parts {
                            (cell(last.and_then(|trained| trained.loss_class)))
                            (cell(last.and_then(|trained| trained.loss_patch)))
                        }
                        (cell(last.and_then(|trained| trained.grad_norm)))
                    }
                }
            }
        }
    }
}
