//! What came out of a run: accuracies, reconstructed images, exported encoders.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use indicatif::{HumanBytes, HumanCount};
use maud::{Markup, html};

use super::run::{Export, Reconstruction, Run};
use crate::artifacts::{Column, EvaluationResult, Overview, Role, Unit, paths};
use crate::encoders::FAMILIES;

/// A table of more figures has them one below another.
const MOST_COLUMNS: usize = 8;

/// Width and height that small reconstructions are enlarged to, in pixels of the page.
const NEWEST: (u32, u32) = (640, 1100);

/// A section with the main figures of several evaluations.
pub fn overview(results: &[EvaluationResult]) -> Markup {
    let Overview { columns, rows } = Overview::new(results);
    html! {
        section {
            h2 { "All encoders" }
            table.figures {
                thead {
                    tr {
                        th { "Encoder" }
                        th { "Weights" }
                        @for Column { evaluation, metric } in &columns {
                            th { (evaluation) br; (metric.label) }
                        }
                    }
                }
                tbody {
                    @for (encoder, role, values) in &rows {
                        tr {
                            td { (encoder) }
                            td { (role.name()) }
                            @for (value, Column { metric, .. }) in values.iter().zip(&columns) {
                                td { (bar(*role, metric.unit, *value)) }
                            }
                        }
                    }
                }
            }
            @if rows.iter().any(|(_, role, _)| *role == Role::Published) {
                p.note {
                    "Published: not measured here, but what the Pixio release says of its encoder, the \
                     best of all epochs on the test split."
                }
            }
        }
    }
}

/// A section for each evaluation.
pub fn evaluations(results: &[EvaluationResult]) -> Markup {
    html! {
        @for result in results {
            section {
                h2 { (result.title) }
                @if result.metrics.len() > MOST_COLUMNS { (turned(result)) } @else { (table(result)) }
                p.note {
                    (result.description) ". Bars reach from 0 to 100 %."
                    @if let Some(step) = result.step { " Measured after step " (HumanCount(step)) "." }
                }
            }
        }
    }
}

fn table(result: &EvaluationResult) -> Markup {
    html! {
        table.figures {
            thead {
                tr {
                    th { "Encoder" }
                    th { "Weights" }
                    @for metric in &result.metrics { th { (metric.label) } }
                }
            }
            tbody {
                @for (encoder, role, values) in result.rows() {
                    tr {
                        td { (encoder) }
                        td { (role.name()) }
                        @for (value, metric) in values.into_iter().zip(&result.metrics) {
                            td { (bar(role, metric.unit, value)) }
                        }
                    }
                }
            }
        }
    }
}

/// The same with a row for each figure, where those are many.
fn turned(result: &EvaluationResult) -> Markup {
    let rows = result.rows();
    html! {
        table.figures {
            thead {
                tr {
                    th { "Figure" }
                    th {}
                    @for (encoder, role, _) in &rows { th { (encoder) br; (role.name()) } }
                }
            }
            tbody {
                @for (place, metric) in result.metrics.iter().enumerate() {
                    tr {
                        td { (metric.label) }
                        td {}
                        @for (_, role, values) in &rows { td { (bar(*role, metric.unit, values[place])) } }
                    }
                }
            }
        }
    }
}

/// A figure as a number, and a share in `[0, 1]` as a bar too.
fn bar(role: Role, unit: Unit, value: Option<f64>) -> Markup {
    let class = match role {
        Role::Random | Role::Initial => "bar random",
        Role::Teacher => "bar teacher",
        Role::Published => "bar published",
        Role::Trained | Role::Stored => "bar",
    };
    html! {
        @if let Some(value) = value {
            // The exact number is there for programs.
            data value=(value) { (unit.show(value, 2)) }
            @if unit == Unit::Share {
                div.track { div class=(class) style=(format!("width:{:.2}%", 100.0 * value)) {} }
            }
        } @else {
            "–"
        }
    }
}

/// The section with reconstructed images, where there are some.
pub fn reconstructions(run: &Run) -> Markup {
    html! {
        @if let Some((newest, earlier)) = run.reconstructions.split_last() {
            section {
                h2 { "Reconstructions" }
                figure {
                    (image(newest, &enlarged(newest)))
                    figcaption {
                        "Step " (HumanCount(newest.step)) ". In each row: the image, what the \
                         encoder sees of it, and what the decoder makes of that."
                    }
                }
                @if !earlier.is_empty() {
                    h3 { "Before that" }
                    div.strip {
                        @for one in earlier {
                            figure {
                                (image(one, "height:220px"))
                                figcaption { "Step " (HumanCount(one.step)) }
                            }
                        }
                    }
                    @if run.reconstruction_count > run.reconstructions.len() {
                        p.note {
                            (run.reconstructions.len()) " of " (run.reconstruction_count)
                            " are shown; all are in " code { "reconstructions/" } "."
                        }
                    }
                }
            }
        }
    }
}

/// A style that shows an image by a whole number of times its size, as large as it fits.
fn enlarged(one: &Reconstruction) -> String {
    let (width, height) = one.size;
    let times = (NEWEST.0 / width.max(1)).min(NEWEST.1 / height.max(1)).max(1);
    format!("width:{}px", width * times)
}

/// The PNG itself, inside the page.
fn image(one: &Reconstruction, style: &str) -> Markup {
    let source = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(&one.png));
    let text = format!("Images, their visible parts and predictions at step {}", one.step);
    html! { img src=(source) width=(one.size.0) height=(one.size.1) alt=(text) style=(style); }
}

/// The section on exports and how they are loaded.
pub fn exports(run: &Run) -> Markup {
    html! {
        section {
            h2 { "Exports" }
            @if run.exports.is_empty() { (how_to_export(run)) }
            @for export in &run.exports { (loading(run, export)) }
        }
    }
}

fn how_to_export(run: &Run) -> Markup {
    let trained = run.trained().first().copied();
    html! {
        p { "None yet. A run writes them to " code { "exports/" } " when it ends." }
        @if let (Some(name), Some(step)) = (trained, run.checkpoint) {
            p { "The newest checkpoint, of step " (HumanCount(step)) ", becomes one with" }
            pre {
                "distill export --run " (shell_word(&run.path.to_string_lossy()))
                " --student " (name) " --out exported/" (name)
            }
        }
    }
}

/// The files of an export, and lines that load them.
fn loading(run: &Run, export: &Export) -> Markup {
    let folder = paths::export(&run.path, &export.name);
    let has = |name: &str| export.files.iter().any(|file| file.0 == name);
    // A JSON string is one of Python and one of TOML too.
    let quoted =
        |path: &std::path::Path| serde_json::Value::from(path.to_string_lossy()).to_string();
    html! {
        h3 { (export.name) }
        ul.files {
            @for (name, bytes) in &export.files { li { code { (name) } " " (HumanBytes(*bytes)) } }
        }
        @if has("config.json") {
            pre {
                "from transformers import AutoImageProcessor, AutoModel\n"
                "model = AutoModel.from_pretrained(" (quoted(&folder)) ")\n"
                "processor = AutoImageProcessor.from_pretrained(" (quoted(&folder)) ")"
            }
        }
        @for family in FAMILIES.iter().filter(|family| has(family.file_name())) {
            p {
                "Under the names of the original " (family.title())
                " code, for that and as weights of another run:"
            }
            pre { "weights = " (quoted(&folder.join(family.file_name()))) }
        }
    }
}

/// `text` as one word of a shell's command line.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=,:@".contains(c);
    if text.chars().all(is_plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
