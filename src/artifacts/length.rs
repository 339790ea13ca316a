//! How long a run is to be, by its `config.toml`.

use toml::{Table, Value};

/// The part of a configuration's schedule that says when a run ends, whatever it trains.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RunLength {
    /// Epochs in all.
    epochs: Option<f64>,
    steps_per_epoch: Option<f64>,
}

impl RunLength {
    /// Reads the table of a `config.toml`.
    pub fn of(config: &Table) -> Self {
        let number = |key| number(config.get("schedule")?.get(key)?);
        Self { epochs: number("epochs"), steps_per_epoch: number("steps_per_epoch") }
    }

    /// Steps of the whole run. Where the configuration leaves the length of an epoch to the data set
    /// it follows from a `recorded` step and the epochs done after it.
    pub fn total_steps(&self, recorded: Option<(u64, f64)>) -> Option<u64> {
        let of_record = recorded.filter(|record| record.1 > 0.0);
        let steps_per_epoch =
            self.steps_per_epoch.or(of_record.map(|(step, epoch)| step as f64 / epoch))?;
        Some(((self.epochs? * steps_per_epoch).round() as u64).max(1))
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_float().or(value.as_integer().map(|whole| whole as f64))
}
