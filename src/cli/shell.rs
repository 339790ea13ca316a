//! `distill completions` and `distill man`: what a shell and `man` want to know of the command line.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Command, ValueEnum};
use clap_complete::{Shell, generate};

use super::output::print;

/// Print a script that completes commands and options in a shell
///
/// bash reads it from ~/.local/share/bash-completion/completions/distill, zsh from a file _distill in a folder
/// of its fpath, fish from ~/.config/fish/completions/distill.fish.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: distill completions bash > ~/.local/share/bash-completion/completions/distill"
)]
pub(super) struct CompletionsArgs {
    #[arg(value_enum)]
    shell: KnownShell,
}

/// Shells that scripts are tried in.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum KnownShell {
    Bash,
    Zsh,
    Fish,
}

/// Write manual pages, one a command
#[derive(Debug, Args)]
#[command(
    after_help = "Example: distill man --out ~/.local/share/man/man1 && man distill-eval-knn"
)]
pub(super) struct ManArgs {
    /// Folder for the pages; those that are there are replaced
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Prints the script for `program`.
pub(super) fn run_completions(args: &CompletionsArgs, mut program: Command) -> Result<()> {
    let shell = match args.shell {
        KnownShell::Bash => Shell::Bash,
        KnownShell::Zsh => Shell::Zsh,
        KnownShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut program, "distill", &mut script);
    print(&String::from_utf8(script)?)
}

/// Writes the pages of `program`.
pub(super) fn run_man(args: &ManArgs, program: Command) -> Result<()> {
    let fail = || format!("cannot write manual pages to {}", args.out.display());
    fs::create_dir_all(&args.out).with_context(fail)?;
    clap_mangen::generate_to(program, &args.out).with_context(fail)?;
    print(&format!("wrote manual pages to {}\n", args.out.display()))
}
