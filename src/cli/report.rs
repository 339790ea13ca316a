//! `distill report`: a run as one HTML page.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use tracing::warn;

use super::output::print;
use crate::artifacts::paths;
use crate::durable;
use crate::report::{self, Run};

/// Write a page about a run: curves, accuracies, reconstructions, configuration
///
/// The page is one file that needs nothing else: it can be opened, printed and sent. A run that
/// still goes on, was stopped or was killed has one too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: distill report --run runs/quickstart")]
pub(super) struct ReportArgs {
    /// Directory of a run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Where the page goes, an HTML file; one that is there is replaced [default: DIR/report.html]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(args: &ReportArgs) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| paths::report(&args.run));
    ensure!(!out.is_dir(), "--out {}: that is a folder; name a file in it", out.display());
    let run = Run::read(&args.run)?;
    for note in run.notes() {
        warn!("{note}");
    }
    let page = report::page(&run)?;
    durable::write(&out, page.as_bytes())?;
    print(&format!("wrote {} ({})\n", out.display(), indicatif::HumanBytes(page.len() as u64)))
}
