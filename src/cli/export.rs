//! `distill export`: a trained encoder, or weights in another layout.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::config::{ConfigError, ExportFormat};
use crate::encoders;
use crate::nn::Projector;
use crate::run::{Source, encoder_at, encoder_of_run};
use crate::weights::Strangers;

/// Write a trained encoder, or other weights, so that transformers or the original Pixio code
/// load them.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["run", "weights"])))]
pub struct ExportArgs {
    /// Directory of a run; its newest checkpoint is exported
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Name of the student in the run's config; a run of one encoder needs none
    #[arg(long, value_name = "NAME", requires = "run")]
    student: Option<String>,
    /// Export the checkpoint of this step instead of the newest
    #[arg(long, value_name = "STEP", requires = "run")]
    checkpoint: Option<u64>,
    /// Convert these weights: a Hugging Face folder, a .safetensors file, or a .pth state dict
    #[arg(long, value_name = "PATH")]
    weights: Option<PathBuf>,
    /// Attention heads of the encoder, where no file beside its weights says so
    #[arg(long, value_name = "N", requires = "weights")]
    heads: Option<usize>,
    /// Folder to write; an earlier export there is replaced
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// hf: for transformers.AutoModel; pixio: original names, in one safetensors file
    #[arg(long, value_enum, default_value = "hf")]
    format: ExportFormat,
    /// Keep the student's projector to the teacher's width (pixio format only)
    #[arg(long)]
    projector: bool,
}

/// Runs the command and says what it wrote.
///
/// # Errors
/// Wrong arguments, unreadable weights, or a full disk.
pub fn run(args: &ExportArgs) -> Result<()> {
    if args.projector && args.format == ExportFormat::Hf {
        return Err(wrong("--projector", "the hf format has no projector; use --format pixio"));
    }
    let (weights, encoder, preprocessing) = match &args.run {
        Some(run) => encoder_of_run(run, args.student.as_deref(), args.checkpoint)?,
        None => foreign(args)?,
    };
    let file = &weights.file;
    let has_projector = file.shapes().keys().any(|name| Projector::owns(name));
    if args.projector && !has_projector {
        let message = format!("{} has no projector", file.path().display());
        return Err(wrong("--projector", &message));
    }
    let formats = [args.format];
    let written = {
        let place = (args.out.as_path(), Strangers::Refuse);
        encoders::export(&weights, &encoder, preprocessing, &formats, args.projector, place)?
    };
    println!("{} ({}, {}) →", file.path().display(), file.layout(), encoder.spec);
    for path in written {
        println!("  {} ({})", path.display(), indicatif::HumanBytes(path.metadata()?.len()));
    }
    Ok(())
}

/// Weights from elsewhere, with what stands beside them.
fn foreign(args: &ExportArgs) -> Result<Source> {
    let path = args.weights.as_deref().context("--run or --weights is needed")?;
    encoder_at(path, args.heads)
}

fn wrong(argument: &str, message: &str) -> anyhow::Error {
    ConfigError { file: PathBuf::new(), key: argument.into(), message: message.into() }.into()
}
