//! The page as a whole: what was trained, how far, what came out.

use std::time::SystemTime;

use anyhow::Result;
use indicatif::{HumanBytes, HumanCount, HumanFloatCount};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::plan::Model;
use super::run::Run;
use super::{results, training};
use crate::artifacts::StepMetrics;
use crate::ui::numbers::{date, duration};

const STYLE: &str = include_str!("style.css");
/// A browser that opens the page loads nothing from anywhere.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";

/// One HTML document about `run` that needs nothing but itself.
pub fn page(run: &Run) -> Result<String> {
    let body = html! {
        (header(run))
        main {
            (models(run))
            (results::evaluations(&run.evaluations))
            (training::section(run)?)
            (results::reconstructions(run))
            @if run.plan.trains_encoders { (results::exports(run)) }
            (configuration(&run.config))
        }
        footer { (footer(run)) }
    };
    Ok(document(&run.name, &body))
}

/// A document of this title that needs nothing but itself.
pub fn document(title: &str, body: &Markup) -> String {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " – distill" }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    };
    document.into_string()
}

/// The section with the text of a configuration.
pub fn configuration(text: &str) -> Markup {
    html! { section { h2 { "Configuration" } pre.config { (text) } } }
}

fn header(run: &Run) -> Markup {
    html! {
        header {
            p.task { (run.plan.task) }
            h1 { (run.name) }
            (state(run))
            @for note in run.notes() { p.warning { (note) } }
        }
    }
}

/// How far the run is, in a row of figures.
fn state(run: &Run) -> Markup {
    let Some(last) = run.steps().last() else {
        return html! { p.warning { "No step is recorded yet." } };
    };
    let figures = [
        ("Steps", Some(progress(run, last))),
        ("Images seen", Some(html! { (HumanCount(last.images_seen)) })),
        ("Training time", Some(time(run, last))),
        ("Images a second", average_speed(run, last)),
        (
            "Operations",
            last.flops_per_second.map(|flops| html! { (format!("{:.3} TFLOP/s", flops / 1e12)) }),
        ),
        ("MFU", last.mfu.map(|mfu| html! { (format!("{:.1} %", 100.0 * mfu)) })),
        ("Peak memory", last.peak_memory_bytes.map(|bytes| html! { (HumanBytes(bytes)) })),
        ("Failed images", Some(html! { (HumanCount(last.failed_images)) })),
    ];
    html! {
        dl.state {
            @for (what, figure) in figures {
                @if let Some(figure) = figure { div { dt { (what) } dd { (figure) } } }
            }
        }
    }
}

fn progress(run: &Run, last: &StepMetrics) -> Markup {
    html! {
        (HumanCount(last.step))
        @if let Some(total) = run.total_steps() {
            small {
                "of " (HumanCount(total)) ", "
                @if last.step >= total {
                    "complete"
                } @else {
                    (format!("{:.1} %", 100.0 * last.step as f64 / total as f64))
                }
            }
        }
    }
}

fn time(run: &Run, last: &StepMetrics) -> Markup {
    let seconds = run.seconds();
    let left = run.total_steps().map_or(0, |total| total.saturating_sub(last.step));
    let pace = Some(last.step_seconds).filter(|pace| left > 0 && pace.is_finite());
    html! {
        (duration(seconds))
        @if let Some(pace) = pace {
            small { (duration(left as f64 * pace)) " more at the last pace" }
        }
        @if let Some(device) = &last.device {
            small { "on " (device) }
        }
    }
}

/// Over all recorded steps.
fn average_speed(run: &Run, last: &StepMetrics) -> Option<Markup> {
    let speed = last.images_seen as f64 / run.seconds();
    speed
        .is_finite()
        .then(|| html! { (HumanFloatCount((10.0 * speed).round() / 10.0)) small { "on average" } })
}

/// What is trained, and from what.
fn models(run: &Run) -> Markup {
    let plan = &run.plan;
    html! {
        section {
            h2 { "Models" }
            table {
                thead {
                    tr { th { "Part" } th { "Name" } th { "Size" } th.number { "Parameters" } th { "Settings" } }
                }
                tbody { @for model in &plan.models { (row(model)) } }
            }
            p.note {
                @if let Some(size) = plan.input_size { "Crops of " (size) " × " (size) " pixels. " }
                @if let Some(last) = run.steps().last() {
                    (HumanCount(last.images_seen / last.step.max(1))) " images a step. "
                }
                @if let Some(precision) = &plan.precision { "Matrix products in " (precision) "." }
            }
        }
    }
}

fn row(model: &Model) -> Markup {
    let millions = model.parameters.map(|count| format!("{:.1} M", count as f64 / 1e6));
    html! {
        tr {
            td { (model.role) }
            td { (model.name.as_deref().unwrap_or("–")) }
            td { (model.size) }
            td.number { (millions.as_deref().unwrap_or("–")) }
            td.settings { (model.settings) }
        }
    }
}

fn footer(run: &Run) -> Markup {
    html! {
        p {
            code { (run.path.display()) } ". "
            @if let Some(last) = run.records.last() { "Last record " (date(last.time)) ". " }
            @if let Some(step) = run.checkpoint { "Newest checkpoint of step " (HumanCount(step)) ". " }
            (made())
        }
    }
}

/// When and by what a page is made.
pub fn made() -> Markup {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    html! { "Page made " (date(now.as_secs_f64())) " by distill " (env!("CARGO_PKG_VERSION")) "." }
}
