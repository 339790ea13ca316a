//! `distill features`: features of images in files.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use tracing::warn;

use super::eval::{ComputeArgs, EncoderArgs, measuring};
use super::exit::{DONE, RESUME_ME};
use super::output::print;
use super::patterns::PATTERN_HELP;
use crate::run::features::{
    FeatureTokens, FeaturesJob, FeaturesOutcome, FileFormat, NumberFormat, Written,
};

/// Write an encoder's features of images to files: safetensors or npy
///
/// Images are seen as by `distill eval`: central squares at the encoder's input size. OUT gets parts of so many
/// images, each with a list of them (part-00000.jsonl: key, shard, label of each row). Tensors of a part are
/// `pooled` [N, D] (the vector that `distill eval knn` compares, before it is divided by its length), `class`
/// [N, C, D] and `patches` [N, rows, columns, D] after the final norm, `labels` [N] (-1: none) and `positions` [N].
/// Images that do not decode have no row. The same command goes on where it was stopped; under a launcher each
/// process writes its share of the parts.
#[derive(Debug, Args)]
#[command(after_help = PATTERN_HELP)]
pub(super) struct FeaturesArgs {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Shards or folders of the images
    #[arg(long, required = true, num_args = 1.., value_name = "PATTERN")]
    images: Vec<String>,
    /// Folder for the features
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Tokens that are kept beside the pooled vector
    #[arg(long, value_enum, value_delimiter = ',', default_value = "class")]
    tokens: Vec<FeatureTokens>,
    /// Kind of the files
    #[arg(long, value_enum, default_value_t = FileFormat::Safetensors)]
    format: FileFormat,
    /// Number format in the files
    #[arg(long, value_enum, default_value_t = NumberFormat::Fp32)]
    store: NumberFormat,
    /// Images in a part [default: as many as make some 256 MiB]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    part_images: Option<u64>,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Runs the command.
pub(super) fn run(args: FeaturesArgs) -> Result<u8> {
    let FeaturesArgs { encoder, images, out, mut tokens, format, store, part_images, compute } =
        args;
    tokens.sort_by_key(|token| *token as usize);
    tokens.dedup();
    let measuring = measuring(&encoder, compute);
    let job =
        FeaturesJob { measuring, images, tokens, format, store, part_images, out: out.clone() };
    match job.run()? {
        FeaturesOutcome::Stopped => {
            warn!("stopped by a signal; whole parts are kept, the same command continues");
            Ok(RESUME_ME)
        }
        FeaturesOutcome::Finished(None) => Ok(DONE),
        FeaturesOutcome::Finished(Some(written)) => {
            let Written { rows, undecodable, parts, kept, rate } = written;
            let mut text =
                format!("features of {rows} images in {parts} parts in {}", out.display());
            if undecodable > 0 {
                text += &format!(", {undecodable} not decodable");
            }
            text += &match kept {
                0 => format!(" ({rate:.0} images/s)\n"),
                kept if kept == parts => " (all of them were there)\n".to_string(),
                kept => format!(" ({kept} parts were there, {rate:.0} images/s)\n"),
            };
            print(&text).map(|()| DONE)
        }
    }
}
