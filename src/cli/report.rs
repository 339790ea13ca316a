//! `distill report`: a run as one HTML page.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use tracing::warn;

use super::output::print;
use crate::artifacts::paths;
use crate::durable;
use crate::report::{self, Report};

/// Write a page about a run: curves, figures, reconstructions, configuration
///
/// The page is one file that needs nothing else: it can be opened, printed and sent. A run that
/// still goes on, was stopped or was killed has one too, and so has a comparison of encoders.
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
    let bytes = write(&args.run, &out)?;
    print(&format!("wrote {} ({})\n", out.display(), indicatif::HumanBytes(bytes)))
}

/// Writes the page about the run or comparison in `dir` to `out`, and gives its size in bytes.
///
/// # Errors
/// The directory is none, cannot be read, or `out` not be written.
pub(super) fn write(dir: &Path, out: &Path) -> Result<u64> {
    let Report { page, notes } = report::of(dir)?;
    for note in notes {
        warn!("{note}");
    }
    durable::write(out, page.as_bytes())?;
    Ok(page.len() as u64)
}
