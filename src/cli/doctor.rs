//! `distill doctor`: what a machine has for a run, and what is missing.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::exit::{DONE, FAILED};
use super::output::print;
use super::version;
use crate::doctor::{Examination, Finding, PairDevice, Verdict, examine, exchange_as_one_of_two};
use crate::train::signals;

/// Look at this machine: GPUs, libtorch, limits, disk, network, launcher
///
/// Each line is ok, a warning (some runs are slow, or fail) or a problem (runs fail), with what to do about
/// it. Two processes of its own exchange numbers, or, under a launcher, all of its ranks. Nothing is changed;
/// a file of 64 MiB is written where runs lie, and removed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples: distill doctor\n          distill doctor --run /shared/runs --json\n          \
                  srun distill doctor",
    after_long_help = "Exit codes:\n  0   no problem, maybe warnings\n  1   at least one problem"
)]
pub(super) struct DoctorArgs {
    /// Where runs are to lie (run.dir)
    #[arg(long, value_name = "DIR", default_value = "runs")]
    run: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Be one of the two processes that exchange numbers
    #[arg(long, hide = true, value_enum)]
    one_of_two: Option<PairDevice>,
}

/// Runs the command; the exit code says whether there is a problem.
pub(super) fn run(args: &DoctorArgs) -> Result<u8> {
    signals::install()?;
    let stop = || signals::stop_requested().is_some();
    if let Some(device) = args.one_of_two {
        let found = exchange_as_one_of_two(device, stop)?;
        return print(&format!("{found}\n")).map(|()| DONE);
    }
    let examination = examine(&args.run, stop);
    print(&if args.json { as_json(&examination)? } else { as_text(&examination) })?;
    Ok(if examination.count(Verdict::Problem) > 0 { FAILED } else { DONE })
}

fn as_json(examination: &Examination) -> Result<String> {
    let Examination { findings, rank } = examination;
    let [problems, warnings] =
        [Verdict::Problem, Verdict::Warning].map(|verdict| examination.count(verdict));
    let object = json!({
        "version": version::long(), "rank": rank, "problems": problems, "warnings": warnings,
        "findings": serde_json::to_value(findings)?,
    });
    Ok(format!("{object}\n"))
}

/// A line for each finding, and one for what to do about it; of ranks after the first only what is not ok.
fn as_text(examination: &Examination) -> String {
    let Examination { findings, rank } = examination;
    let shown = |finding: &&Finding| *rank == 0 || finding.verdict != Verdict::Ok;
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text =
        if *rank == 0 { format!("distill {}\n", version::long()) } else { String::new() };
    for Finding { name, verdict, found, advice } in findings.iter().filter(shown) {
        let word = verdict.word();
        let before = if *rank == 0 { String::new() } else { format!("rank {rank}: ") };
        text += &format!("{before}{word:<7}  {name:<width$}  {found}\n");
        if let Some(advice) = advice {
            text += &format!("{before}{:<7}  {:<width$}  -> {advice}\n", "", "");
        }
    }
    if *rank == 0 {
        let count = |verdict, one: &str| match examination.count(verdict) {
            0 => format!("no {one}s"),
            1 => format!("1 {one}"),
            count => format!("{count} {one}s"),
        };
        let problems = count(Verdict::Problem, "problem");
        text += &format!("{problems}, {}\n", count(Verdict::Warning, "warning"));
    }
    text
}
