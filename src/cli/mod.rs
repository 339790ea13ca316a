//! Arguments in, exit codes out.

mod export;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Export(export::ExportArgs),
}

/// Runs the program.
pub fn main() -> ExitCode {
    let Command::Export(args) = Cli::parse().command;
    match export::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<crate::config::ConfigError>() { 2 } else { 1 })
        }
    }
}
