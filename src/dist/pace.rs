//! How processes spend their steps, which tells who holds up the others.

use std::ops::{AddAssign, Sub};

use serde::{Deserialize, Serialize};

/// What some steps of a process were spent on, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    pub steps: u64,
    /// All of them.
    pub seconds: f64,
    /// Waiting for images.
    pub data: f64,
    /// Waiting for the others' gradients.
    pub exchange: f64,
    /// Saving and drawing.
    pub saving: f64,
}

impl Pace {
    /// Seconds of a step in which the process did not wait for the others: all processes take as long over a
    /// step, and the one that waits least is the one that is waited for.
    pub fn busy(&self) -> f64 {
        (self.seconds - self.exchange) / self.steps as f64
    }

    /// What it was busy with, by name, in seconds of a step.
    pub fn parts(&self) -> [(&'static str, f64); 3] {
        let steps = self.steps as f64;
        let passes = self.seconds - self.exchange - self.data - self.saving;
        [("data", self.data / steps), ("passes", passes / steps), ("saving", self.saving / steps)]
    }
}

impl AddAssign for Pace {
    fn add_assign(&mut self, more: Self) {
        self.steps += more.steps;
        self.seconds += more.seconds;
        self.data += more.data;
        self.exchange += more.exchange;
        self.saving += more.saving;
    }
}

impl Sub for Pace {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            steps: self.steps.saturating_sub(before.steps),
            seconds: self.seconds - before.seconds,
            data: self.data - before.data,
            exchange: self.exchange - before.exchange,
            saving: self.saving - before.saving,
        }
    }
}

/// What a process has spent since it began, as its last sign of life says.
#[derive(Debug, Clone, PartialEq)]
pub struct RankPace {
    pub rank: usize,
    /// Its node and process number.
    pub host: String,
    pub pace: Pace,
}
