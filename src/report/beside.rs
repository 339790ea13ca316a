//! The page about several runs: what they have in common over one another, and in what they differ.

use std::collections::BTreeMap;

use anyhow::Result;
use indicatif::{HumanBytes, HumanCount};
use maud::{Markup, html};
use toml::{Table, Value};

use super::charts::{Chart, Scale};
use super::page::{document, made};
use super::run::Run;
use super::{results, training};
use crate::artifacts::{EvaluationResult, Measurement, StepMetrics};
use crate::ui::numbers::{duration, significant};

/// One HTML document about `runs` that needs nothing but itself.
pub fn page(runs: &[Run]) -> Result<String> {
    let names = names(runs);
    let measured = evaluations(runs, &names);
    let body = html! {
        header {
            p.task { "Runs side by side" }
            h1 { (names.join(" and ")) }
            @for note in runs.iter().flat_map(Run::notes) { p.warning { (note) } }
        }
        main {
            (overview(runs, &names))
            (losses(runs, &names)?)
            @for name in differently_measured(runs) {
                p.warning {
                    "The runs were not measured alike by " (name) ": other settings, or other images."
                }
            }
            (results::evaluations(&measured))
            (differences(runs, &names))
        }
        footer { p { (made()) } }
    };
    Ok(document(&names.join(" and "), &body))
}

/// What the runs are called: by their directories, and where two are called alike by their paths.
fn names(runs: &[Run]) -> Vec<String> {
    let is_taken = |run: &Run| runs.iter().filter(|other| other.name == run.name).count() > 1;
    let name = |run: &Run| match is_taken(run) {
        true => run.path.display().to_string(),
        false => run.name.clone(),
    };
    runs.iter().map(name).collect()
}

/// How far each run is, and how fast.
fn overview(runs: &[Run], names: &[String]) -> Markup {
    type Figure = (&'static str, fn(&Run, &StepMetrics) -> Option<String>);
    let figures: [Figure; 7] = [
        ("Steps", |run, last| {
            let total = run.total_steps().map(|total| format!(" of {}", HumanCount(total)));
            Some(format!("{}{}", HumanCount(last.step), total.unwrap_or_default()))
        }),
        ("Images seen", |_, last| Some(HumanCount(last.images_seen).to_string())),
        ("Training time", |run, _| Some(duration(run.seconds()))),
        ("Images a second", |run, last| {
            let speed = last.images_seen as f64 / run.seconds();
            speed.is_finite().then(|| significant(speed, 4))
        }),
        ("MFU", |_, last| last.mfu.map(|mfu| format!("{:.1} %", 100.0 * mfu))),
        ("Peak memory", |_, last| Some(HumanBytes(last.peak_memory_bytes?).to_string())),
        ("Device", |_, last| last.device.clone()),
    ];
    let cell = |run: &Run, figure: fn(&Run, &StepMetrics) -> Option<String>| {
        run.steps().last().and_then(|last| figure(run, last)).unwrap_or("–".into())
    };
    html! {
        section {
            h2 { "Runs" }
            table {
                thead { tr { th { "Run" } th { "Task" } @for (title, _) in figures { th { (title) } } } }
                tbody {
                    @for (run, name) in runs.iter().zip(names) {
                        tr {
                            td { (name) }
                            td { (run.plan.task) }
                            @for (_, figure) in figures { td { (cell(run, figure)) } }
                        }
                    }
                }
            }
        }
    }
}

/// The curves of all that is trained in all runs, over one another.
fn losses(runs: &[Run], names: &[String]) -> Result<Markup> {
    let trained: Vec<(&Run, &str, String)> = runs
        .iter()
        .zip(names)
        .flat_map(|(run, name)| {
            run.trained().into_iter().map(move |one| (run, one, format!("{name}: {one}")))
        })
        .collect();
    let curves = |of: fn(&StepMetrics, &str) -> Option<f64>| -> Vec<Vec<(f64, f64)>> {
        let curve = |(run, one, _): &(&Run, &str, String)| {
            let point = |step: &StepMetrics| {
                let value = of(step, one).filter(|value| value.is_finite())?;
                Some((step.step as f64, value))
            };
            run.steps().filter_map(point).collect()
        };
        trained.iter().map(curve).collect()
    };
    let loss = curves(|step, one| Some(step.trainee(one)?.loss));
    let speed = curves(|step, _| Some(step.images_per_second));
    let ends: Vec<[String; 2]> = loss.iter().map(|curve| ends(curve)).collect();
    let titles: Vec<&str> = trained.iter().map(|(.., title)| title.as_str()).collect();
    let chart = |scale, curves, size| Chart { size, scale, is_noisy: true, curves };
    Ok(html! {
        section {
            h2 { "Training" }
            (training::legend(&titles))
            (training::figure("Loss", chart(Scale::LogWhereUseful, loss, training::LARGE))?)
            table {
                thead { tr { th { "Trained" } th.number { "First loss" } th.number { "Last loss" } } }
                tbody {
                    @for (title, [first, last]) in titles.iter().zip(&ends) {
                        tr { td { (title) } td.number { (first) } td.number { (last) } }
                    }
                }
            }
            (training::figure("Images a second", chart(Scale::FromZero, speed, training::LARGE))?)
        }
    })
}

/// First and last value of a curve.
fn ends(curve: &[(f64, f64)]) -> [String; 2] {
    let end = |point: Option<&(f64, f64)>| point.map_or("–".into(), |one| significant(one.1, 4));
    [end(curve.first()), end(curve.last())]
}

/// Evaluations of one name as one, whose encoders are called after their runs.
fn evaluations(runs: &[Run], names: &[String]) -> Vec<EvaluationResult> {
    let mut joined: Vec<EvaluationResult> = Vec::new();
    for (run, run_name) in runs.iter().zip(names) {
        for result in &run.evaluations {
            let own = result.measurements.iter().map(|one| Measurement {
                encoder: format!("{run_name}: {}", one.encoder),
                ..one.clone()
            });
            match joined.iter_mut().find(|known| known.name == result.name) {
                Some(known) => {
                    known.measurements.extend(own);
                    for metric in &result.metrics {
                        if !known.metrics.contains(metric) {
                            known.metrics.push(metric.clone());
                        }
                    }
                    known.step = known.step.filter(|step| Some(*step) == result.step);
                }
                None => {
                    let measurements = own.collect();
                    joined.push(EvaluationResult { measurements, ..result.clone() });
                }
            }
        }
    }
    joined
}

/// Names of evaluations whose settings or images are not the same in all runs that have them.
fn differently_measured(runs: &[Run]) -> Vec<&str> {
    let mut differing = Vec::new();
    let all = || runs.iter().flat_map(|run| &run.evaluations);
    for result in all() {
        let is_other = |other: &EvaluationResult| {
            let how = |of: &EvaluationResult| {
                of.of.as_ref().map(|of| (of.settings.clone(), of.images.clone(), of.input_size))
            };
            other.name == result.name
                && (how(other) != how(result) || other.images != result.images)
        };
        if all().any(is_other) && !differing.contains(&result.name.as_str()) {
            differing.push(result.name.as_str());
        }
    }
    differing
}

/// Keys of the configurations that not all runs have alike.
fn differences(runs: &[Run], names: &[String]) -> Markup {
    let configs: Vec<BTreeMap<String, String>> = runs
        .iter()
        .map(|run| {
            let mut keys = BTreeMap::new();
            // It was a table when the run was read.
            let table = run.config.parse::<Table>().unwrap_or_default();
            flatten("", &Value::Table(table), &mut keys);
            keys
        })
        .collect();
    let mut keys: Vec<&String> = configs.iter().flat_map(BTreeMap::keys).collect();
    keys.sort();
    keys.dedup();
    keys.retain(|key| configs.iter().any(|config| config.get(*key) != configs[0].get(*key)));
    html! {
        section {
            h2 { "Differences of configuration" }
            @if keys.is_empty() { p { "None." } } @else {
                table {
                    thead { tr { th { "Key" } @for name in names { th { (name) } } } }
                    tbody {
                        @for key in keys {
                            tr {
                                td { code { (key) } }
                                @for config in &configs {
                                    td.settings { (config.get(key).map_or("–", String::as_str)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The values of tables, and of lists of tables, by their whole keys.
fn flatten(key: &str, value: &Value, keys: &mut BTreeMap<String, String>) {
    let below =
        |part: &str| if key.is_empty() { part.to_string() } else { format!("{key}.{part}") };
    match value {
        Value::Table(table) => {
            table.iter().for_each(|(part, value)| flatten(&below(part), value, keys));
        }
        Value::Array(list) if list.iter().any(Value::is_table) => {
            for (number, value) in list.iter().enumerate() {
                flatten(&below(&number.to_string()), value, keys);
            }
        }
        other => drop(keys.insert(key.to_string(), other.to_string())),
    }
}
