//! `distill export`: a trained encoder, or weights in another layout.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::config::{ConfigError, ExportFormat};
use crate::encoders::{self, EncoderWeights, StoredEncoder};
use crate::nn::Projector;
use crate::onnx::Placement;
use crate::run::{Source, encoder_at, encoder_of_run};
use crate::weights::{Preprocessing, Strangers};

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
    /// Convert these weights: a Hugging Face folder, a .safetensors file, a .pth state dict, or hf://OWNER/NAME
    #[arg(long, value_name = "PATH")]
    weights: Option<PathBuf>,
    /// Attention heads of the encoder, where no file beside its weights says so
    #[arg(long, value_name = "N", requires = "weights")]
    heads: Option<usize>,
    /// Folder to write; an earlier export there is replaced
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Form of what is written
    #[arg(long, value_enum, default_value = "hf")]
    format: Format,
    /// Side of the square images that an ONNX graph takes [default: that of the weights]
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// Write the weights of an ONNX graph into a file beside it, as is always done beyond 1.9 GB
    #[arg(long)]
    external_data: bool,
    /// Keep the student's projector to the teacher's width (pixio format only)
    #[arg(long)]
    projector: bool,
}

/// What an encoder can be written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For transformers.AutoModel
    Hf,
    /// Original names, in one safetensors file
    #[value(name = "pixio", alias = "original")]
    Original,
    /// A graph for onnxruntime and others, of ViT encoders at one image size and any batch
    Onnx,
}

/// Runs the command and says what it wrote.
///
/// # Errors
/// Wrong arguments, unreadable weights, or a full disk.
pub fn run(args: &ExportArgs) -> Result<()> {
    if args.projector && args.format != Format::Original {
        return Err(wrong("--projector", "this format has no projector; use --format pixio"));
    }
    for (argument, is_given) in
        [("--image-size", args.image_size.is_some()), ("--external-data", args.external_data)]
    {
        if is_given && args.format != Format::Onnx {
            return Err(wrong(argument, "is for --format onnx; other formats serve every size"));
        }
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
    let written = write(args, &weights, &encoder, preprocessing)?;
    println!("{} ({}, {}) →", file.path().display(), file.layout(), encoder.spec);
    for path in written {
        println!("  {} ({})", path.display(), indicatif::HumanBytes(path.metadata()?.len()));
    }
    Ok(())
}

/// Writes the encoder in the form that is asked for; returns the files.
fn write(
    args: &ExportArgs,
    weights: &EncoderWeights,
    encoder: &StoredEncoder,
    preprocessing: Preprocessing,
) -> Result<Vec<PathBuf>> {
    let format = match args.format {
        Format::Hf => ExportFormat::Hf,
        Format::Original => ExportFormat::Original,
        Format::Onnx => {
            let (size, patch) =
                (args.image_size.unwrap_or(encoder.image_size), encoder.spec.patch_size);
            if size == 0 || !size.is_multiple_of(patch) {
                let expected = format!("expected a multiple of the encoder's patch, {patch}");
                return Err(wrong("--image-size", &format!("found {size}, {expected}")));
            }
            let placement = match args.external_data {
                true => Placement::Outside,
                false => Placement::Within,
            };
            return encoders::export_onnx(
                weights,
                encoder,
                preprocessing,
                size,
                placement,
                &args.out,
            );
        }
    };
    let place = (args.out.as_path(), Strangers::Refuse);
    encoders::export(weights, encoder, preprocessing, &[format], args.projector, place)
}

/// Weights from elsewhere, with what stands beside them.
fn foreign(args: &ExportArgs) -> Result<Source> {
    let path = args.weights.as_deref().context("--run or --weights is needed")?;
    encoder_at(path, args.heads)
}

fn wrong(argument: &str, message: &str) -> anyhow::Error {
    ConfigError { file: PathBuf::new(), key: argument.into(), message: message.into() }.into()
}
