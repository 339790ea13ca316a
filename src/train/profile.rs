//! A recording of some steps, for looking inside.

use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context, Result};
use tracing::{info, warn};

use crate::artifacts::paths;
use crate::dist::ProcessGroup;
use crate::native::Profiler;

/// The recording of some steps of a run, before, while and after it is made.
#[derive(Default)]
pub struct Profile {
    /// The steps, from 1; none once they are recorded.
    steps: Option<RangeInclusive<u64>>,
    under_way: Option<(u64, Profiler)>,
}

impl Profile {
    /// Records those of `steps` that come after `done`.
    pub fn of(steps: Option<&RangeInclusive<u64>>, done: u64) -> Self {
        let steps = steps.filter(|steps| {
            let is_to_come = *steps.end() > done;
            if !is_to_come {
                warn!("nothing is recorded by --profile: step {done} is done already");
            }
            is_to_come
        });
        Self { steps: steps.cloned(), under_way: None }
    }

    /// Before `step` is begun.
    pub fn before(&mut self, step: u64, group: &ProcessGroup) -> Result<()> {
        let is_first = self.steps.as_ref().is_some_and(|steps| steps.contains(&step));
        if is_first && self.under_way.is_none() {
            // What is still queued is of other steps.
            group.synchronize()?;
            match Profiler::begin(group.device()) {
                Ok(profiler) => self.under_way = Some((step, profiler)),
                // It only looks on: no run ends for it.
                Err(error) => {
                    self.steps = None;
                    warn!("nothing is recorded by --profile: {error:#}");
                }
            }
        }
        Ok(())
    }

    /// After `step` was begun: writes the trace into `run`, if it was the last.
    pub fn after(&mut self, step: u64, group: &ProcessGroup, run: &Path) -> Result<()> {
        match &self.steps {
            Some(steps) if step >= *steps.end() => self.end(step, group, run),
            _ => Ok(()),
        }
    }

    /// Writes what was recorded up to `step`, if anything was.
    pub fn end(&mut self, step: u64, group: &ProcessGroup, run: &Path) -> Result<()> {
        self.steps = None;
        let Some((first, profiler)) = self.under_way.take() else { return Ok(()) };
        group.synchronize()?;
        let file = paths::profile(run, first..=step, group.rank());
        match write(profiler, &file) {
            Ok(()) => {
                info!(
                    "recorded steps {first} to {step}: {} (ui.perfetto.dev opens it)",
                    file.display()
                );
            }
            Err(error) => warn!("the trace of steps {first} to {step} is lost: {error:#}"),
        }
        Ok(())
    }
}

/// Writes a trace, and the folder around it.
fn write(profiler: Profiler, file: &Path) -> Result<()> {
    let folder = file.parent().context("a file is in a folder")?;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    profiler.write(file)
}
