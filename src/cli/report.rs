//! `distill report`: a run as one HTML page.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use tracing::warn;

use super::output::print;
use crate::artifacts::paths;
use crate::durable;
use crate::report::{self, Report};

/// Write a page about a run: curves, figures, reconstructions, configuration
///
/// The page is one file that needs nothing else: it can be opened, printed and sent. A run that
/// still goes on, was stopped or was killed has one too, and so has a comparison of encoders. Several runs are put side by
/// side: their curves over one another, their figures, and in what their configurations differ.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples: distill report --run runs/quickstart\n          \
                  distill report --run runs/first --run runs/second --out both.html")]
pub(super) struct ReportArgs {
    /// Directory of a run; of several runs one each
    #[arg(long, value_name = "DIR", required = true)]
    run: Vec<PathBuf>,
    /// Where the page goes, an HTML file; one that is there is replaced [default: DIR/report.html of a single run]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub(super) fn run(args: &ReportArgs) -> Result<()> {
    let out = match (&args.out, &args.run[..]) {
        (Some(out), _) => out.clone(),
        (None, [run]) => paths::report(run),
        _ => bail!("--out is needed where several runs are named: say where their page goes"),
    };
    ensure!(!out.is_dir(), "--out {}: that is a folder; name a file in it", out.display());
    let bytes = match &args.run[..] {
        [run] => write(run, &out)?,
        several => keep(&report::of_several(several)?, &out)?,
    };
    print(&format!("wrote {} ({})\n", out.display(), indicatif::HumanBytes(bytes)))
}

/// Writes the page about the run or comparison in `dir` to `out`, and gives its size in bytes.
///
/// # Errors
/// The directory is none, cannot be read, or `out` not be written.
pub(super) fn write(dir: &Path, out: &Path) -> Result<u64> {
    keep(&report::of(dir)?, out)
}

fn keep(Report { page, notes }: &Report, out: &Path) -> Result<u64> {
    for note in notes {
        warn!("{note}");
    }
    durable::write(out, page.as_bytes())?;
    Ok(page.len() as u64)
}
