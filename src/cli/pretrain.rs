//! `distill pretrain --config FILE`: a masked autoencoder, from shards to an exported encoder.

use std::path::PathBuf;

use anyhow::Result;

use super::exit::DONE;
use super::train::{TrainArgs, load, run_task};
use crate::run::score;
use crate::tasks::pretrain::PretrainConfig;

const EXAMPLES: &str = "\
Examples:
  distill pretrain --config configs/pretrain_tiny.toml
  distill launch -- pretrain --config configs/pretrain_h_imagenet.toml
  distill pretrain --config FILE --score 'data/web/*/*.tar' --out data/web_json";

/// Pre-train an encoder as a masked autoencoder
///
/// Trains the encoder of that file with a decoder that predicts masked patches, and exports the
/// encoder, whose folder can be named as `teacher.weights`; run again, it continues where it stopped.
/// configs/reference_pretrain.toml comments every key.
///
/// With `--score` it trains nothing: the run's newest checkpoint looks at every image of those shards,
/// and how well it predicts their masked patches is written down, with the entropy of the colour
/// histogram and the size, in the JSON files that `data.curation` reads.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true, after_help = EXAMPLES)]
pub struct PretrainArgs {
    #[command(flatten)]
    train: TrainArgs,
    /// Score the images of these shards instead of training; quoted, so that the shell leaves the
    /// pattern alone
    #[arg(long, value_name = "PATTERN", num_args = 1.., requires_all = ["config", "out"],
          conflicts_with_all = ["resume", "dry_run"])]
    score: Vec<String>,
    /// Where scores go: OUT/FOLDER/SHARD.json for FOLDER/SHARD.tar. Shards that have a file there are
    /// left alone
    #[arg(long, value_name = "JSON_ROOT", requires = "score")]
    out: Option<PathBuf>,
}

/// Trains, exports, and says what came out.
pub fn run(args: &PretrainArgs) -> Result<u8> {
    let Some(json_root) = &args.out else { return run_task::<PretrainConfig>(&args.train) };
    score::run(&load(&args.train)?, &args.score, json_root).map(|()| DONE)
}
