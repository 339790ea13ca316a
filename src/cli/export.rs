//! `distill export`: a trained encoder, or weights in another layout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::config::{ConfigError, ExportFormat};
use crate::encoders::{self, EncoderWeights, StoredEncoder};
use crate::nn::Projector;
use crate::tasks::AnyConfig;
use crate::train::checkpoint::{self, Checkpoint};
use crate::weights::Preprocessing;

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
    /// Attention heads of the weights, where nothing beside them tells
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
    let written =
        encoders::export(&weights, &encoder, preprocessing, &formats, args.projector, &args.out)?;
    println!("{} ({}, {}) →", file.path().display(), file.layout(), encoder.spec);
    for path in written {
        println!("  {} ({})", path.display(), indicatif::HumanBytes(path.metadata()?.len()));
    }
    Ok(())
}

type Source = (EncoderWeights, StoredEncoder, Preprocessing);

/// The weights of an encoder that was trained, with what the run's config says of it.
fn encoder_of_run(run: &Path, name: Option<&str>, step: Option<u64>) -> Result<Source> {
    let config = AnyConfig::load(&run.join("config.toml"), &[])?;
    let known = || {
        let names: Vec<&str> = config.encoders().iter().map(|one| one.name.as_str()).collect();
        names.join(", ")
    };
    let encoder = match (name, config.encoders()) {
        (None, [only]) => only,
        (None, _) => {
            return Err(wrong("--student", &format!("is missing; the run has {}", known())));
        }
        (Some(name), all) => all.iter().find(|one| one.name == name).ok_or_else(|| {
            wrong("--student", &format!("the run has no student `{name}`; it has {}", known()))
        })?,
    };
    let checkpoint = match step {
        Some(step) => Checkpoint::open(&checkpoint::folder_of(run, step))?,
        None => checkpoint::newest(run)?
            .with_context(|| format!("{} holds no checkpoint yet", run.display()))?,
    };
    let weights = checkpoint.weights(&encoder.name)?;
    let weights = EncoderWeights::of_trainee(weights, encoder.model.family)?;
    let stored = weights.measure(Some(encoder.model.heads))?;
    ensure!(
        stored.spec == encoder.model,
        "{} holds an encoder of {}, but the run's config says {}",
        weights.file.path().display(),
        stored.spec,
        encoder.model
    );
    let preprocessing =
        Preprocessing { mean: config.train().data.mean, std: config.train().data.std };
    Ok((weights, stored, preprocessing))
}

/// Weights from elsewhere, with what stands beside them.
fn foreign(args: &ExportArgs) -> Result<Source> {
    let path = args.weights.as_deref().context("--run or --weights is needed")?;
    let weights = EncoderWeights::open(path)?;
    let encoder = weights.measure(args.heads)?;
    Ok((weights, encoder, Preprocessing::beside(path)?))
}

fn wrong(argument: &str, message: &str) -> anyhow::Error {
    ConfigError { file: PathBuf::new(), key: argument.into(), message: message.into() }.into()
}
