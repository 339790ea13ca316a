//! `distill bench`: how fast this machine does a part of the work.

mod data;
mod step;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Measure how fast this machine does a part of the work
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Data(data::DataArgs),
    Step(step::StepArgs),
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<()> {
    match &args.command {
        BenchCommand::Data(args) => data::run(args),
        BenchCommand::Step(args) => step::run(args),
    }
}
