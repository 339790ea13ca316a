//! `distill pretrain --config FILE`: a masked autoencoder, from shards to an exported encoder.

use std::cell::OnceCell;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::evaluation::Trained;
use super::reconstructions::Samples;
use super::training::{self, Start, TrainArgs, Training};
use super::{DONE, models, score, summary};
use crate::config::PretrainConfig;
use crate::native::guard;
use crate::objective::pretrain::Autoencoder;
use crate::train::Drawing;

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
/// With `--score` it trains nothing: the run's newest checkpoint looks at every picture of those shards,
/// and how well it predicts their masked patches is written down, with the entropy of the colour
/// histogram and the size, in the JSON files that `data.curation` reads.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true, after_help = EXAMPLES)]
pub struct PretrainArgs {
    #[command(flatten)]
    train: TrainArgs,
    /// Score the pictures of these shards instead of training; quoted, so that the shell leaves the
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
///
/// # Errors
/// What the user has to know, in a line.
pub fn run(args: &PretrainArgs) -> Result<u8> {
    let Some(json_root) = &args.out else { return training::run::<Pretraining>(&args.train) };
    score::run(&training::load(&args.train)?, &args.score, json_root).map(|()| DONE)
}

struct Pretraining;

impl Training for Pretraining {
    type Config = PretrainConfig;
    type Objective = Autoencoder;

    fn models(start: &Start<PretrainConfig>, starts_anew: bool) -> Result<Autoencoder> {
        guard(|| models::autoencoder(start.config, start.device, starts_anew))
    }

    fn drawing<'a>(
        start: &'a Start<PretrainConfig>,
        autoencoder: &'a Autoencoder,
    ) -> Option<Drawing<'a>> {
        let every = start.config.reconstructions.every;
        let samples = OnceCell::new();
        let draw = move || {
            if samples.get().is_none() {
                let _ = samples.set(Samples::read(start)?);
            }
            samples.get().context("there are no samples")?.draw(autoencoder)
        };
        (every > 0).then(|| Drawing { every, draw: Box::new(draw) })
    }

    fn trained(models: &Autoencoder) -> Trained<'_> {
        Trained { encoders: vec![models.vit()], teacher: None }
    }

    fn check_models(config: &PretrainConfig) -> Result<()> {
        summary::print_autoencoder(&Autoencoder::shapes_only(config), config);
        models::check_encoder_weights(&config.encoder)
    }

    fn print_advice(config: &PretrainConfig) {
        if config.train.export.formats.is_empty() {
            return;
        }
        let folder = config.train.run.dir.join("exports").join(&config.encoder.name);
        println!("  distil it: in a configuration with students,");
        println!("    --set teacher.weights={}", folder.display());
        println!("    --set 'teacher.model={}'", config.encoder.model.to_toml());
    }
}
