//! `distill watch`: a run on the terminal.

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use tracing::info;

use super::output::print;
use crate::watch::{self, Panel, View, Watched};

/// Show a run on the terminal while it goes on, or afterwards
///
/// Losses, rates, waits, evaluations, warnings and how long it will take, from the files of the run's directory, which
/// are followed as they grow and never touched. It may be watched from another machine that sees the directory, over ssh too.
/// A run that tells nothing for long is said to stand still. Keys: q leaves, Tab and 1 to 5 change the panel,
/// arrows the student, ? helps. Where standard output is no terminal, a summary is printed.
#[derive(Debug, Args)]
#[command(after_help = "Examples: distill watch runs/quickstart\n          \
                  distill watch --once --width 120 --height 40 runs/quickstart")]
pub(super) struct WatchArgs {
    /// Directory of a run
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The file that the run's standard error goes to, for its warnings [default: the newest *.log in RUN]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Print one frame as plain text, and leave
    #[arg(long)]
    once: bool,
    /// What the frame shows
    #[arg(long, requires = "once", value_enum, default_value_t)]
    panel: Panel,
    /// Columns of the frame
    #[arg(long, requires = "once", value_name = "N", default_value_t = 80,
          value_parser = clap::value_parser!(u16).range(1..=500))]
    width: u16,
    /// Rows of the frame
    #[arg(long, requires = "once", value_name = "N", default_value_t = 24,
          value_parser = clap::value_parser!(u16).range(1..=500))]
    height: u16,
}

/// Runs the command.
pub(super) fn run(args: WatchArgs) -> Result<()> {
    let WatchArgs { run, log, once, panel, width, height } = args;
    let mut watched = Watched::open(&run, log)?;
    if !once && stdout().is_terminal() {
        return watch::show(&mut watched);
    }
    watched.look_at_all()?;
    if once {
        let view = View { panel, ..View::default() };
        return print(&watch::frame_as_text(&watched, &view, watch::now(), (width, height)));
    }
    info!("standard output is no terminal: one summary in place of a display");
    print(&watch::summary(&watched, watch::now()))
}
