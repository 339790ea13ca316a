//! `distill eval all`: several encoders by several evaluations.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use tracing::warn;

use crate::artifacts::{Overview, paths};
use crate::cli::exit::{DONE, RESUME_ME};
use crate::cli::output::print;
use crate::cli::report;
use crate::run::Options;
use crate::run::comparison::{ComparisonConfig, ComparisonOutcome, compare};

/// What is compared, by what.
#[derive(Debug, Args)]
pub(super) struct AllArgs {
    /// A TOML file such as configs/eval/quickstart.toml; configs/eval/reference_all.toml comments every key
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Override a key of the config, for example run.device=cpu or evaluation.knn.neighbours=[5]
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Wrong configuration, images, targets or weights; a full disk.
pub(super) fn run(args: &AllArgs) -> Result<u8> {
    let config = ComparisonConfig::load(&args.config, &args.set)?;
    match compare(&config, &Options::default())? {
        ComparisonOutcome::Stopped => {
            warn!("stopped by a signal; what is measured is kept, the same command continues");
            Ok(RESUME_ME)
        }
        // A rank after rank 0 has nothing to say.
        ComparisonOutcome::Finished(results) if results.is_empty() => Ok(DONE),
        ComparisonOutcome::Finished(results) => {
            let dir = &config.run.dir;
            report::write(dir, &paths::report(dir))?;
            let overview = Overview::new(&results);
            if args.json {
                print(&(serde_json::to_string(&overview.json())? + "\n"))?;
            } else {
                let [table, page] = [paths::evaluation_table(dir), paths::report(dir)];
                let places = format!("{} and {}", table.display(), page.display());
                print(&format!("{}All figures: {places}\n", overview.table()))?;
            }
            Ok(DONE)
        }
    }
}
