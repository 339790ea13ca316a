//! Several encoders measured by several evaluations and heads: `distill eval all`.
//!
//! What is found of one encoder is kept in a file of its own with all that it depends on, so a comparison
//! goes on where it was interrupted, and measures again only what has changed.

mod config;
mod merge;
mod plan;
mod rows;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::Device;
use tracing::info;

pub use config::{ComparisonConfig, ImagesConfig};

use super::evaluation::{OnScreen, in_config, result, source_of};
use super::heads::{self, HeadsOutcome};
use super::options::Options;
use super::setup;
use super::worker_program::worker_program;
use crate::artifacts::{EvaluationFile, EvaluationResult, Overview, paths};
use crate::dist::{Activity, ProcessGroup};
use crate::durable;
use crate::eval::{self, Encoder, Interrupted, NamedEvaluation, Subject};
use crate::native::guard;
use crate::train::run_directory::Resume;
use crate::train::{explain_memory, signals};
use crate::weights::Preprocessing;
use merge::{merged, result_name};
use plan::{RowPlan, Unit, heads_on, plan};

/// Where the first process leaves word of what is to be measured.
const PLAN: &str = "plan";

/// How a comparison ended that did not fail.
#[derive(Debug)]
pub enum ComparisonOutcome {
    /// All is measured and written down; of several processes the first one alone has the results.
    Finished(Vec<EvaluationResult>),
    /// A signal asked for an end; the same command goes on.
    Stopped,
}

/// Measures what `config` asks for of its encoders, but for what was measured before. Under a launcher all
/// its processes call this.
///
/// # Errors
/// Encoders, images or targets are not there, or device, disk or another process fail.
pub fn compare(config: &ComparisonConfig, options: &Options) -> Result<ComparisonOutcome> {
    let train = config.train();
    let work = |group: &ProcessGroup, device| compare_in_group(config, options, group, device);
    let explain = |error| explain_memory(heads::explain_memory(error), &train);
    let outcome = setup::with_group(&train, |_| Ok(()), explain, work)?;
    Ok(outcome.unwrap_or(ComparisonOutcome::Stopped))
}

fn compare_in_group(
    config: &ComparisonConfig,
    options: &Options,
    group: &ProcessGroup,
    device: Device,
) -> Result<ComparisonOutcome> {
    let dir = &config.run.dir;
    let (_directory, _) = setup::open_directory(dir.clone(), &Resume::Auto, group, &mut |_| {
        require_own(dir, group)?;
        Ok((String::new(), config.to_toml()))
    })?;
    let plans: Vec<RowPlan> = if group.is_first() {
        let plans = plan(config)?;
        group.publish(PLAN, &serde_json::to_vec(&plans)?)?;
        plans
    } else {
        serde_json::from_slice(&group.wait_for(PLAN)?)?
    };
    let comparing = Comparing { config, options, group, device };
    for plan in &plans {
        if comparing.measure(plan)?.is_none() {
            return Ok(ComparisonOutcome::Stopped);
        }
    }
    if !group.is_first() {
        return Ok(ComparisonOutcome::Finished(Vec::new()));
    }
    let results = merged(config, &plans)?;
    write(dir, &results)?;
    Ok(ComparisonOutcome::Finished(results))
}

/// A directory of another run keeps what it has.
fn require_own(dir: &Path, group: &ProcessGroup) -> Result<()> {
    let path = paths::config(dir);
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) };
    let is_own = text.parse().is_ok_and(|table: toml::Table| table.contains_key("encoders"));
    ensure!(
        is_own || !group.is_first(),
        "{} is the directory of another run; choose another run.dir for a comparison",
        dir.display()
    );
    Ok(())
}

/// Writes results and their table.
fn write(dir: &Path, results: &[EvaluationResult]) -> Result<()> {
    EvaluationFile { results: results.to_vec() }.write(&paths::evaluation(dir))?;
    let mut text = format!("# Frozen encoders compared\n\n{}\n", Overview::new(results).markdown());
    for one in results {
        text += &format!("- **{}**: {}. {}.\n", one.name, one.title, one.description);
    }
    durable::write(&paths::evaluation_table(dir), text.as_bytes())
}

/// What measuring needs.
struct Comparing<'a> {
    config: &'a ComparisonConfig,
    options: &'a Options,
    group: &'a ProcessGroup,
    device: Device,
}

impl Comparing<'_> {
    /// Measures what is left of one encoder. None if a signal ended that.
    fn measure(&self, plan: &RowPlan) -> Result<Option<()>> {
        let left: Vec<&Unit> = plan.evaluations.iter().filter(|unit| !unit.is_done).collect();
        let place = plan.row.folder();
        if !left.is_empty() {
            if self.is_to_stop()? {
                return Ok(None);
            }
            self.group.begin_part(&place);
            match self.evaluate(plan, &left) {
                Err(error) if error.is::<Interrupted>() => return Ok(None),
                other => other.with_context(|| plan.row.label.clone())?,
            }
        }
        for unit in plan.heads.iter().filter(|unit| !unit.is_done) {
            if self.is_to_stop()? {
                return Ok(None);
            }
            self.group.begin_part(&format!("{place}/{}", unit.name));
            let done = self.train_heads(plan, unit);
            if done.with_context(|| plan.row.label.clone())?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    fn is_to_stop(&self) -> Result<bool> {
        self.group.any(signals::stop_requested().is_some())
    }

    /// Measures an encoder by the evaluations that are `left`, on one pass over each set of images.
    fn evaluate(&self, plan: &RowPlan, left: &[&Unit]) -> Result<()> {
        let Self { config, options, group, device } = self;
        let row = &plan.row;
        let _evaluating = group.enter(Activity::Evaluating);
        info!("measuring {} ({})", row.label, row.role.name());
        let (keys, compute) = (row.keys(), config.run.precision.kind());
        let keys = [keys[0].as_str(), keys[1].as_str()];
        let encoder = row.source.load(keys, row.image_size, *device, compute)?;
        let Preprocessing { mean, std } = encoder.preprocessing;
        let data = config.data(encoder.image_size, mean, std);
        let is_left = |one: &NamedEvaluation| left.iter().any(|unit| unit.name == one.name);
        let named: Vec<NamedEvaluation> =
            config.evaluations().map_err(in_config)?.into_iter().filter(is_left).collect();
        let program = options.worker_program.clone().map_or_else(worker_program, Ok)?;
        let subject = Subject {
            name: &row.label,
            role: row.role,
            encoder: Some(Encoder { model: &*encoder.model, compute, image_size: None }),
        };
        let observer = OnScreen { shows_features: true };
        let source = source_of(&data, &observer);
        let found = eval::measure(&named, &[subject], &source, &program, group)?;
        if group.is_first() {
            for ((one, found), unit) in named.iter().zip(found).zip(left) {
                keep(unit, vec![result(one, found, unit.of.clone(), row.source.step)])?;
            }
        }
        Ok(())
    }

    /// Trains and tests heads on an encoder. None if a signal ended that.
    fn train_heads(&self, plan: &RowPlan, unit: &Unit) -> Result<Option<()>> {
        let Self { config, options, group, device } = self;
        let row = &plan.row;
        info!("training heads `{}` on {} ({})", unit.name, row.label, row.role.name());
        let dir = unit.heads_dir(&config.run.dir, row)?;
        let heads = heads_on(config, &unit.name, row, dir)?;
        let outcome = guard(|| heads::train_in_group(&heads, options, group, *device))?;
        let HeadsOutcome::Finished(found) = outcome else { return Ok(None) };
        if group.is_first() {
            let mut results = heads::as_results(&heads, (&row.label, row.role), &found);
            for (result, head) in results.iter_mut().zip(&found) {
                result.name = result_name(&unit.name, &head.head);
                result.of = Some(unit.of.clone());
            }
            keep(unit, results)?;
        }
        Ok(Some(()))
    }
}

/// Writes the results of a unit.
fn keep(unit: &Unit, results: Vec<EvaluationResult>) -> Result<()> {
    let folder = unit.file.parent().context("a file of figures lies in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    EvaluationFile { results }.write(&unit.file)
}
