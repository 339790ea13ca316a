//! The progress of a training: a display on a terminal, plain lines elsewhere.

use std::iter;
use std::time::Duration;

use indicatif::{BinaryBytes, FormattedDuration, ProgressBar};

use super::screen;
use crate::artifacts::{StepMetrics, TraineeMetrics};

/// Shows how training goes, smoothed over the last steps.
///
/// On a terminal there is one bar with the steps, time gone and time left, a line a trainee, and
/// a line of rates; elsewhere one log line every `log_every` steps says the same, and so does a
/// last one at the end.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    trainees: Vec<ProgressBar>,
    rates: ProgressBar,
    recent: Recent,
    total_steps: u64,
    log_every: u64,
    logged_step: Option<u64>,
}

impl Progress {
    /// Begins a display of steps `first_step..=total_steps`; `first_step` is 1, or one more than
    /// the step that training goes on from.
    pub fn new(
        total_steps: u64,
        first_step: u64,
        trainee_names: &[String],
        log_every: u64,
    ) -> Self {
        let bar = ProgressBar::new(total_steps).with_position(first_step.saturating_sub(1));
        let bar = show(bar.with_message("?"), BAR);
        bar.enable_steady_tick(screen::TICK);
        let width = trainee_names.iter().map(String::len).max().unwrap_or(0);
        let trainees = trainee_names
            .iter()
            .map(|name| ProgressBar::no_length().with_prefix(format!("{name:width$}")))
            .map(|line| show(line, "  {prefix:.green.bold}  {wide_msg}"))
            .collect();
        let rates = show(ProgressBar::no_length(), "  {wide_msg:.dim}");
        let recent = Recent::default();
        Self { bar, trainees, rates, recent, total_steps, log_every, logged_step: None }
    }

    /// Takes in the metrics of a step.
    pub fn update(&mut self, metrics: &StepMetrics) {
        let recent = self.recent.take_in(metrics);
        self.bar.set_position(recent.step);
        self.bar.set_message(time_left(recent, self.total_steps).to_string());
        for (line, trainee) in self.trainees.iter().zip(&recent.trainees) {
            line.set_message(trainee_text(trainee));
        }
        self.rates.set_message(rates_text(recent));
        if recent.step.is_multiple_of(self.log_every.max(1)) {
            self.line();
        }
    }

    /// Logs the present state, where lines are logged and this one was not yet.
    pub fn line(&mut self) {
        if !screen::is_drawn() {
            self.log();
        }
    }

    /// Ends the display and logs its last state.
    pub fn finish(self) {
        drop(self);
    }

    /// Logs the present state, unless that was done before.
    fn log(&mut self) {
        let Some(recent) = &self.recent.average else { return };
        if self.logged_step.replace(recent.step) == Some(recent.step) {
            return;
        }
        let losses: Vec<_> = recent
            .trainees
            .iter()
            .map(|trainee| format!("{} {:.4}", trainee.name, trainee.loss))
            .collect();
        tracing::info!(
            step = recent.step,
            total_steps = self.total_steps,
            loss = %losses.join(", "),
            learning_rate = rounded(recent.learning_rate),
            epoch = decimals(recent.epoch, 4),
            images_per_second = rounded(recent.images_per_second),
            data_wait_percent = decimals(100.0 * recent.data_wait_share(), 2),
            tflops_per_second = recent.flops_per_second.map(|flops| decimals(flops / 1e12, 3)),
            mfu_percent = recent.mfu.map(|mfu| decimals(100.0 * mfu, 1)),
            memory = recent.peak_memory_bytes.map(|bytes| BinaryBytes(bytes).to_string()),
            failed_images = recent.failed_images,
            elapsed = %FormattedDuration(self.bar.elapsed()),
            left = %time_left(recent, self.total_steps),
            "training"
        );
    }
}

/// Where training ends early, too, a log line tells how far it came: the bars themselves cannot
/// stay, since the next log line would wipe them.
impl Drop for Progress {
    fn drop(&mut self) {
        for bar in iter::once(&self.bar).chain(&self.trainees).chain([&self.rates]) {
            bar.finish_and_clear();
        }
        self.log();
    }
}

const BAR: &str =
    "step {pos}/{len} {wide_bar:.cyan/238} {percent}%  {elapsed_precise} gone  {msg} left";

/// Adds a line to the screen.
fn show(line: ProgressBar, template: &'static str) -> ProgressBar {
    screen::bars().add(line.with_style(screen::style(template)))
}

/// Step metrics, their times averaged over the last steps: [`Recent::STEPS`] of them, roughly. What is trained has
/// means already, those since the last line of the log.
#[derive(Debug, Default)]
struct Recent {
    average: Option<StepMetrics>,
    updates: f64,
}

impl Recent {
    const STEPS: f64 = 20.0;

    /// Moves the averages towards `new` and returns them: the mean of all updates at first, then
    /// an exponential moving average. What needs no averaging is `new`'s.
    fn take_in(&mut self, new: &StepMetrics) -> &StepMetrics {
        self.updates += 1.0;
        let weight = 1.0 / self.updates.min(Self::STEPS);
        let mix = |old: f64, new: f64| old + weight * (new - old);
        let mix_some = |old: Option<f64>, new: Option<f64>| Some(mix(old?, new?));
        let old = self.average.take().unwrap_or_else(|| new.clone());
        self.average.insert(StepMetrics {
            images_per_second: mix(old.images_per_second, new.images_per_second),
            data_wait_seconds: mix(old.data_wait_seconds, new.data_wait_seconds),
            step_seconds: mix(old.step_seconds, new.step_seconds),
            flops_per_second: mix_some(old.flops_per_second, new.flops_per_second),
            mfu: mix_some(old.mfu, new.mfu),
            ..new.clone()
        })
    }
}

fn time_left(recent: &StepMetrics, total_steps: u64) -> FormattedDuration {
    let steps = total_steps.saturating_sub(recent.step) as f64;
    let time = Duration::try_from_secs_f64((steps * recent.step_seconds).round());
    FormattedDuration(time.unwrap_or(Duration::MAX))
}

fn trainee_text(trainee: &TraineeMetrics) -> String {
    let terms = trainee.terms.iter().map(|(name, value)| format!("  {name} {value:.4}"));
    let terms: String = terms.collect();
    format!("loss {:.4}{terms}  grad norm {:.3}", trainee.loss, trainee.grad_norm)
}

fn rates_text(recent: &StepMetrics) -> String {
    let mut text = format!(
        "{:.1} images/s  data wait {:.0}%  lr {:.2e}  epoch {:.2}",
        recent.images_per_second,
        100.0 * recent.data_wait_share(),
        recent.learning_rate,
        recent.epoch,
    );
    if let Some(flops) = recent.flops_per_second {
        text += &format!("  {:.3} TFLOP/s", flops / 1e12);
    }
    if let Some(mfu) = recent.mfu {
        text += &format!("  MFU {:.1}%", 100.0 * mfu);
    }
    if let Some(bytes) = recent.peak_memory_bytes {
        text += &format!("  memory {}", BinaryBytes(bytes));
    }
    if recent.failed_images > 0 {
        text += &format!("  {} unreadable", recent.failed_images);
    }
    text
}

/// To so many decimals: what is next to nothing is shown as 0, and not as a power of ten.
fn decimals(value: f64, places: i32) -> f64 {
    let scale = 10f64.powi(places);
    (value * scale).round() / scale
}

/// To four significant digits.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the log shows them, which writes `{:?}`.
    #[test]
    fn figures_are_written_as_people_write_them() {
        let shown = [6.444e-5, 0.0712, 12.3456].map(|value| format!("{:?}", decimals(value, 2)));
        assert_eq!(shown, ["0.0", "0.07", "12.35"]);
        assert_eq!(format!("{:?}", rounded(812.3456)), "812.3");
    }
}
