//! Arguments in, exit codes out: one file a command.

mod bench;
mod data;
mod doctor;
mod eval;
mod exit;
mod explore;
mod export;
mod features;
mod launch;
pub mod logging;
mod made;
mod models;
mod output;
mod patterns;
mod plan;
mod pretrain;
mod preview;
mod quick;
mod report;
mod sharing;
mod shell;
mod summary;
mod train;
mod version;
mod viewing;
mod visualize;
mod watch;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use rustix::process::{Resource, getrlimit};

use self::exit::{DONE, FAILED, WRONG_USAGE};
use crate::config::ConfigError;
use crate::dist::Failure;
use crate::dist::launcher::die_with_the_launcher;
use crate::native;

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   failed; the message says what and what to do
  2   wrong usage or configuration
  75  stopped by a signal with the state saved: run the same command again to continue";

const EXAMPLES: &str = "\
Examples:
  distill quick --images PHOTOS --teacher checkpoints/dinov3_vitl16 --student vits16 --out runs/mine
  distill --config configs/quickstart.toml
  distill --config configs/5b_to_1b_h.toml --set data.batch_size=32
  distill launch --nproc-per-node 8 -- --config configs/5b_to_1b_h.toml
  distill data pack PHOTOS --out data/photos
  distill export --run runs/quickstart --student small --out exported";

/// Distil a frozen Pixio vision encoder into several smaller ones at once.
///
/// `distill --config FILE` trains the students of that file and exports them; run again, it
/// continues where it stopped. configs/reference.toml comments every key.
#[derive(Debug, Parser)]
#[command(
    version = version::long(),
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}")
)]
struct Arguments {
    #[command(flatten)]
    train: train::TrainArgs,
    #[command(flatten)]
    log: logging::LogArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Quick(quick::QuickArgs),
    Init(quick::InitArgs),
    Launch(launch::LaunchArgs),
    Pretrain(pretrain::PretrainArgs),
    /// Write a student's encoder, or any encoder weights, for other software to load
    Export(export::ExportArgs),
    /// Pack images into tar shards, index shards, check them, look at what is trained on
    Data(data::DataArgs),
    /// Measure how good an encoder's features are
    Eval(eval::EvalArgs),
    Features(Box<features::FeaturesArgs>),
    Visualize(visualize::VisualizeArgs),
    Explore(Box<explore::ExploreArgs>),
    Report(report::ReportArgs),
    Watch(watch::WatchArgs),
    Plan(plan::PlanArgs),
    /// Measure how fast this machine does a part of the work
    Bench(bench::BenchArgs),
    Models(models::ModelsArgs),
    Doctor(doctor::DoctorArgs),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
}

/// Runs the program, built from this `commit`, on its command line.
pub fn main(commit: Option<&'static str>) -> ExitCode {
    version::is_of(commit);
    sharing::start_again_with_short_spins();
    native::c10d::prepare_environment();
    die_with_the_launcher();
    let arguments = Arguments::parse();
    native::install_panic_hook();
    let result = native::guard(|| run(arguments));
    let code = match result {
        Ok(code) => code,
        Err(error) => {
            output::print_error(&in_words(&error));
            let is_usage = |cause: &(dyn std::error::Error + 'static)| {
                cause.is::<ConfigError>()
                    || cause.downcast_ref::<Failure>().is_some_and(|failure| failure.usage)
            };
            let usage = error.chain().any(is_usage);
            if usage { WRONG_USAGE } else { FAILED }
        }
    };
    native::exit_if_skipping_destructors(code);
    ExitCode::from(code)
}

/// The error, begun with what is the likeliest cause where that is another than what failed first.
fn in_words(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    if !text.contains("(os error 24)") {
        return text;
    }
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.map_or("unlimited".into(), |limit| limit.to_string());
    format!("too many open files: raise ulimit -n (now {limit}): {text}")
}

fn run(arguments: Arguments) -> Result<u8> {
    logging::start(&arguments.log)?;
    match arguments.command {
        Some(Command::Quick(args)) => quick::run(args),
        Some(Command::Init(args)) => quick::init(args).map(|()| DONE),
        Some(Command::Launch(args)) => launch::run(args),
        Some(Command::Pretrain(args)) => pretrain::run(&args),
        Some(Command::Export(args)) => export::run(&args).map(|()| DONE),
        Some(Command::Data(args)) => data::run(args).map(|()| DONE),
        Some(Command::Eval(args)) => eval::run(args),
        Some(Command::Features(args)) => features::run(*args),
        Some(Command::Visualize(args)) => visualize::run(args).map(|()| DONE),
        Some(Command::Explore(args)) => explore::run(*args).map(|()| DONE),
        Some(Command::Report(args)) => report::run(&args).map(|()| DONE),
        Some(Command::Watch(args)) => watch::run(args).map(|()| DONE),
        Some(Command::Plan(args)) => plan::run(&args).map(|()| DONE),
        Some(Command::Bench(args)) => bench::run(&args).map(|()| DONE),
        Some(Command::Models(args)) => models::run(&args).map(|()| DONE),
        Some(Command::Doctor(args)) => doctor::run(&args),
        Some(Command::Completions(args)) => {
            shell::run_completions(&args, Arguments::command()).map(|()| DONE)
        }
        Some(Command::Man(args)) => shell::run_man(&args, Arguments::command()).map(|()| DONE),
        None => train::run(&arguments.train),
    }
}
