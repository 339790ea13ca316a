//! A run in words and figures.

use std::time::SystemTime;

use indicatif::{BinaryBytes, HumanCount, HumanFloatCount};

use super::watched::{Measure, Watched};
use crate::artifacts::{EvaluationResult, SlowestRank, StepMetrics, TraineeMetrics};
use crate::ui::numbers::{duration, significant};

/// A name and what is known under it.
pub type Fact = (&'static str, String);

/// How the run is, in a sentence, and whether that is a matter of concern.
pub fn state(watched: &Watched, now: f64) -> (String, bool) {
    let Some(age) = watched.age(now) else {
        return match watched.has_more {
            true => ("reading".into(), false),
            false => ("no step is recorded yet".into(), false),
        };
    };
    if watched.is_complete() {
        return ("complete".into(), false);
    }
    if !watched.stands_still(now) {
        return ("training".into(), false);
    }
    let usual = watched.usual_pause();
    let usual =
        usual.map_or(String::new(), |pause| format!(", where one came every {}", short(pause)));
    (format!("stands still: no line for {}{usual}", duration(age)), true)
}

/// How far the run is: `step 120 of 400 (30.0 %)`.
pub fn progress(watched: &Watched) -> String {
    let step = watched.last.as_ref().map_or(0, |line| line.metrics.step);
    match watched.total_steps() {
        Some(total) => format!(
            "step {} of {} ({:.1} %)",
            HumanCount(step),
            HumanCount(total),
            100.0 * step as f64 / total.max(1) as f64
        ),
        None => format!("step {}", HumanCount(step)),
    }
}

/// The part of the run that is done, in `[0, 1]`.
pub fn done(watched: &Watched) -> f64 {
    let step = watched.last.as_ref().map_or(0, |line| line.metrics.step);
    watched.total_steps().map_or(0.0, |total| (step as f64 / total.max(1) as f64).min(1.0))
}

/// The time that the remaining steps take at the last pace.
pub fn time_left(watched: &Watched) -> Option<String> {
    let metrics = &watched.last.as_ref()?.metrics;
    let steps = watched.total_steps()?.saturating_sub(metrics.step);
    let seconds = steps as f64 * metrics.step_seconds;
    (steps > 0 && seconds.is_finite()).then(|| duration(seconds))
}

/// When the newest line came.
pub fn last_line(watched: &Watched, now: f64) -> Option<String> {
    watched.age(now).map(|age| format!("{} ago", duration(age)))
}

/// What is told of the newest step, and of the newest checkpoint; only what is known.
pub fn facts(watched: &Watched) -> Vec<Fact> {
    let mut facts = Vec::new();
    if let Some(line) = &watched.last {
        facts.extend(of_step(&line.metrics));
    }
    if let Some((step, written)) = watched.checkpoint {
        let age = SystemTime::now().duration_since(written).unwrap_or_default();
        let age = duration(age.as_secs_f64());
        facts.push(("checkpoint", format!("step {}, {age} ago", HumanCount(step))));
    }
    if watched.damaged > 0 {
        facts.push(("unreadable lines", watched.damaged.to_string()));
    }
    facts
}

fn of_step(metrics: &StepMetrics) -> Vec<Fact> {
    let mut facts: Vec<Fact> = Measure::ALL
        .into_iter()
        .filter(|rate| rate.of(metrics).is_finite())
        .map(|rate| (title(rate), in_words(rate, metrics)))
        .collect();
    let step = metrics.step_seconds;
    if step.is_finite() {
        facts.push(("a step", short(step)));
    }
    if let Some(bytes) = metrics.peak_memory_bytes {
        facts.push(("peak memory", BinaryBytes(bytes).to_string()));
    }
    if let Some(slowest) = &metrics.slowest_rank {
        facts.push(("slowest rank", slowest_rank(slowest)));
    }
    facts.push(("images seen", HumanCount(metrics.images_seen).to_string()));
    if metrics.failed_images > 0 {
        facts.push(("failed images", HumanCount(metrics.failed_images).to_string()));
    }
    if let Some(device) = &metrics.device {
        facts.push(("device", device.clone()));
    }
    facts
}

/// What a rate is called.
pub fn title(rate: Measure) -> &'static str {
    match rate {
        Measure::Images => "images/s",
        Measure::LearningRate => "learning rate",
        Measure::DataWait => "data wait",
        Measure::ExchangeWait => "exchange wait",
        Measure::Flops => "TFLOP/s",
        Measure::Mfu => "MFU",
    }
}

/// A rate of a step with its unit.
pub fn in_words(rate: Measure, metrics: &StepMetrics) -> String {
    let value = rate.of(metrics);
    let of_step = |seconds: f64| match metrics.step_seconds > 0.0 {
        true => format!("{:.1} % ({})", 100.0 * seconds / metrics.step_seconds, short(seconds)),
        false => short(seconds),
    };
    match rate {
        _ if !value.is_finite() => "–".into(),
        Measure::Images => HumanFloatCount((10.0 * value).round() / 10.0).to_string(),
        Measure::LearningRate => format!("{value:.2e}"),
        Measure::DataWait | Measure::ExchangeWait => of_step(value),
        Measure::Flops => format!("{:.3}", value / 1e12),
        Measure::Mfu => format!("{:.1} %", 100.0 * value),
    }
}

fn slowest_rank(slowest: &SlowestRank) -> String {
    let SlowestRank { rank, host, part, .. } = slowest;
    let excess = 100.0 * slowest.excess();
    format!("{rank} ({host}), {excess:.0} % over the median, mostly {part}")
}

/// A loss with its terms and the gradient's norm.
pub fn of_trainee(trainee: &TraineeMetrics) -> String {
    let terms = trainee.terms.iter().map(|(name, value)| format!("  {name} {}", number(*value)));
    let terms: String = terms.collect();
    format!("{}{terms}  grad norm {}", number(trainee.loss), number(trainee.grad_norm))
}

/// A loss to four significant digits.
pub fn number(value: f64) -> String {
    if value.is_finite() { significant(value, 4) } else { "not finite".into() }
}

/// Seconds, short ones with digits.
pub fn short(seconds: f64) -> String {
    match seconds < 10.0 {
        true => format!("{} s", significant(seconds, 3)),
        false => duration(seconds),
    }
}

/// An encoder's figure of an evaluation, in words.
pub struct Figure {
    /// The evaluation's key in the configuration.
    pub evaluation: String,
    /// The encoder's name and role.
    pub encoder: String,
    pub metric: String,
    pub value: String,
    /// Optimizer steps that were done.
    pub step: Option<u64>,
}

/// The newest figures: those at the end of the run, then those on the way of evaluations that have none at its end.
pub fn figures(watched: &Watched) -> Vec<Figure> {
    let mut figures = Vec::new();
    for result in &watched.evaluations {
        for one in &result.measurements {
            let metric = result.metrics.iter().find(|metric| metric.name == one.metric);
            let unit = metric.map(|metric| metric.unit).unwrap_or_default();
            figures.push(Figure {
                evaluation: result.name.clone(),
                encoder: format!("{} {}", one.encoder, one.role.name()),
                metric: metric.map_or(&one.metric, |metric| &metric.label).clone(),
                value: unit.show(one.value, 1),
                step: result.step,
            });
        }
    }
    let on_the_way = watched.measured.values().filter(|line| {
        let is_later = |result: &EvaluationResult| {
            result.name == line.evaluation && result.step >= Some(line.step)
        };
        !watched.evaluations.iter().any(is_later)
    });
    for line in on_the_way {
        figures.extend(line.measurements.iter().map(|one| Figure {
            evaluation: line.evaluation.clone(),
            encoder: format!("{} {}", one.encoder, one.role.name()),
            metric: one.metric.clone(),
            value: number(one.value),
            step: Some(line.step),
        }));
    }
    figures
}
