//! Figures of several encoders as one result for each evaluation.

use anyhow::{Context, Result};

use super::config::ComparisonConfig;
use super::plan::{RowPlan, Unit, heads_on};
use crate::artifacts::{EvaluationFile, EvaluationResult};
use crate::run::heads::published;

/// The results of all units, which are done: each evaluation's of all encoders together.
///
/// # Errors
/// A file cannot be read.
pub(super) fn merged(
    config: &ComparisonConfig,
    plans: &[RowPlan],
) -> Result<Vec<EvaluationResult>> {
    let mut merged: Vec<EvaluationResult> = Vec::new();
    for plan in plans {
        for unit in plan.evaluations.iter().chain(&plan.heads) {
            for result in read(unit)? {
                add(&mut merged, result);
            }
        }
    }
    for name in config.heads.keys() {
        let heads = heads_on(config, name, &plans[0].row, Default::default())?;
        for head in &heads.heads {
            let own = merged.iter_mut().find(|result| result.name == result_name(name, &head.name));
            if let Some(result) = own {
                result.measurements.extend(published(&heads, head));
            }
        }
    }
    Ok(merged)
}

/// The name of the result of a head among those of the table `name`.
pub(super) fn result_name(name: &str, head: &str) -> String {
    format!("{name}-{head}")
}

fn read(unit: &Unit) -> Result<Vec<EvaluationResult>> {
    let file = EvaluationFile::read(&unit.file);
    let file = file.with_context(|| format!("cannot read {}", unit.file.display()))?;
    Ok(file.with_context(|| format!("{} is gone", unit.file.display()))?.results)
}

/// Adds a result of one encoder to those of the same evaluation.
fn add(merged: &mut Vec<EvaluationResult>, result: EvaluationResult) {
    match merged.iter_mut().find(|known| known.name == result.name) {
        None => merged.push(EvaluationResult { of: None, step: None, ..result }),
        Some(known) => {
            // An encoder whose head failed has no figures.
            if known.metrics.is_empty() {
                (known.metrics, known.main) = (result.metrics, result.main);
            }
            known.measurements.extend(result.measurements);
        }
    }
}
