//! How training went: curves over its steps.

use anyhow::Result;
use indicatif::HumanCount;
use maud::{Markup, PreEscaped, html};

use super::charts::{self, COLOURS, Chart, Scale};
use super::curve::Point;
use super::run::Run;
use crate::artifacts::{EvaluationLine, SlowestRank, StepMetrics, TraineeMetrics};
use crate::ui::numbers::significant;

/// Width and height of the loss curves, in pixels of the page.
pub const LARGE: (u32, u32) = (960, 340);
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
    let losses = per_trainee(run, &names, |trainee| Some(trainee.loss));
    let over = charts::smoothed_over(&losses);
    let noisy = |title: &str, size, scale, curves| {
        figure(title, Chart { size, scale, is_noisy: true, curves })
    };
    let rate = vec![points(run, |step| Some(step.learning_rate))];
    let rate = Chart { size: SMALL, scale: Scale::FromZero, is_noisy: false, curves: rate };
    let speed = vec![points(run, |step| Some(step.images_per_second))];
    let norms = per_trainee(run, &names, |trainee| Some(trainee.grad_norm));
    let terms = loss_terms(run);
    let term_figures = terms.iter().map(|term| {
        let curves = per_trainee(run, &names, |trainee| trainee.term(term));
        noisy(&term_title(term), SMALL, Scale::LogWhereUseful, curves)
    });
    let term_figures = term_figures.collect::<Result<Vec<_>>>()?;
    let on_the_way = on_the_way(run, &names)?;
    Ok(html! {
        section {
            h2 { "Training" }
            (legend(&names))
            (noisy("Loss", LARGE, Scale::LogWhereUseful, losses)?)
            @if over > 1 {
                p.note { "Pale: as recorded. Bold: smoothed over " (HumanCount(over as u64)) " records." }
            }
            (last_values(run, &names, &terms))
            (stragglers(run))
            div.pair {
                (figure("Learning rate", rate)?)
                (noisy("Images a second", SMALL, Scale::FromZero, speed)?)
                (noisy("Gradient norm", SMALL, Scale::LogWhereUseful, norms)?)
                @for figure in term_figures { (figure) }
                @for figure in on_the_way { (figure) }
            }
        }
    })
}

/// Stragglers that a page names.
const STRAGGLERS: usize = 20;

/// Ranks that held up the others, the last ones.
fn stragglers(run: &Run) -> Markup {
    let slow = |step: &'_ StepMetrics| {
        let slowest = step.slowest_rank.clone().filter(SlowestRank::is_straggler)?;
        Some((step.step, slowest))
    };
    let all: Vec<(u64, SlowestRank)> = run.steps().filter_map(slow).collect();
    if all.is_empty() {
        return html! {};
    }
    html! {
        h3 { "Stragglers" }
        p.note {
            (HumanCount(all.len() as u64)) " times a rank was at least 10 % slower than the median rank."
        }
        table {
            thead { tr {
                th { "Up to step" } th { "Rank" } th { "Slower by" } th { "Mostly in its" }
                th { "Seconds of a step" } th { "Median" }
            } }
            tbody {
                @for (step, one) in all.iter().rev().take(STRAGGLERS) {
                    tr {
                        td { (HumanCount(*step)) } td { (one.rank) " (" (one.host) ")" }
                        td { (format!("{:.0} %", 100.0 * one.excess())) } td { (one.part) }
                        td { (significant(one.seconds, 4)) } td { (significant(one.median_seconds, 4)) }
                    }
                }
            }
        }
    }
}

/// What is finite of a measurement, by step.
fn points(run: &Run, value: impl Fn(&StepMetrics) -> Option<f64>) -> Vec<Point> {
    let point = |step: &StepMetrics| {
        let value = value(step).filter(|value| value.is_finite())?;
        Some((step.step as f64, value))
    };
    run.steps().filter_map(point).collect()
}

/// A chart for each figure of an evaluation that was made while training, in %. Figures of other images or other
/// settings than those of the last one have a chart of their own.
fn on_the_way(run: &Run, names: &[&str]) -> Result<Vec<Markup>> {
    let mut figures: Vec<(&str, Option<&str>, &str)> = Vec::new();
    for line in &run.measured {
        for one in &line.measurements {
            let figure = (&*line.evaluation, line.of.as_deref(), &*one.metric);
            if !figures.contains(&figure) {
                figures.push(figure);
            }
        }
    }
    let chart = |(evaluation, of, metric): (&str, Option<&str>, &str)| {
        let lines = || run.measured.iter().filter(|line| line.evaluation == evaluation);
        let own = || lines().filter(|line| line.of.as_deref() == of);
        let curve = |name: &&str| {
            let point = |line: &EvaluationLine| {
                let mut own = line.measurements.iter();
                let own = own.find(|one| one.metric == metric && one.encoder == **name)?;
                own.value.is_finite().then_some((line.step as f64, 100.0 * own.value))
            };
            own().filter_map(point).collect::<Vec<Point>>()
        };
        let curves = names.iter().map(curve).collect();
        let chart = Chart { size: SMALL, scale: Scale::LogWhereUseful, is_noisy: false, curves };
        let is_latest = lines().next_back().is_some_and(|last| last.of.as_deref() == of);
        let until = own().next_back().map_or(0, |line| line.step);
        let others = match is_latest {
            true => String::new(),
            false => format!(", with other images or settings, up to step {}", HumanCount(until)),
        };
        figure(&format!("{evaluation}: {metric} in %{others}"), chart)
    };
    figures.into_iter().map(chart).collect()
}

/// [`points`] of what is measured of each trainee.
fn per_trainee(
    run: &Run,
    names: &[&str],
    value: impl Fn(&TraineeMetrics) -> Option<f64>,
) -> Vec<Vec<Point>> {
    names.iter().map(|name| points(run, |step| value(step.trainee(name)?))).collect()
}

/// The terms of the last record's losses, where some loss has several: a single one shows what the
/// loss does.
fn loss_terms(run: &Run) -> Vec<&str> {
    let last = run.steps().last().map_or(&[][..], |step| &step.trainees);
    let mut terms = Vec::new();
    for trainee in last.iter().filter(|trainee| trainee.terms.len() > 1) {
        for (term, _) in &trainee.terms {
            if !terms.contains(&term.as_str()) {
                terms.push(term);
            }
        }
    }
    terms
}

fn term_title(term: &str) -> String {
    format!("Loss term: {term}")
}

/// The legend: which colour stands for which name.
pub fn legend(names: &[&str]) -> Markup {
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
pub fn figure(title: &str, chart: Chart) -> Result<Markup> {
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

/// First and last recorded numbers of each trainee.
fn last_values(run: &Run, names: &[&str], terms: &[&str]) -> Markup {
    let (first, last) = (run.steps().next(), run.steps().last());
    let Some((first, last)) = first.zip(last) else { return Markup::default() };
    let cell = |value: Option<f64>| {
        let value = value.filter(|value| value.is_finite());
        html! { td.number { (value.map_or("–".into(), |value| significant(value, 4))) } }
    };
    html! {
        table {
            thead {
                tr {
                    th { "Trained" }
                    th.number { "Loss at step " (HumanCount(first.step)) }
                    th.number { "Loss at step " (HumanCount(last.step)) }
                    @for term in terms { th.number { (term_title(term)) } }
                    th.number { "Gradient norm" }
                }
            }
            tbody {
                @for name in names {
                    @let last = last.trainee(name);
                    tr {
                        td { (name) }
                        (cell(first.trainee(name).map(|trainee| trainee.loss)))
                        (cell(last.map(|trainee| trainee.loss)))
                        @for term in terms {
                            (cell(last.and_then(|trainee| trainee.term(term))))
                        }
                        (cell(last.map(|trainee| trainee.grad_norm)))
                    }
                }
            }
        }
    }
}
