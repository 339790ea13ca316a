//! `distill eval`: how good an encoder's features are.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::Serialize;
use tch::{Device, Kind};

use super::output::print;
use super::patterns::PATTERN_HELP;
use crate::config::{ConfigError, DataConfig, DeviceChoice, KnnConfig, Precision};
use crate::data::{Dataset, EvaluationPass};
use crate::encoders::{self, EncoderWeights};
use crate::eval::{self, Encoder, Features, ImageSource, knn};
use crate::native::guard;
use crate::nn::{FrozenFormat, Parameters, Storage};
use crate::run::{device, worker_program};
use crate::ui::with_bar;
use crate::weights::Preprocessing;

/// Measure how good an encoder's features are
#[derive(Debug, Args)]
pub struct EvalArgs {
    #[command(subcommand)]
    command: EvalCommand,
}

#[derive(Debug, Subcommand)]
enum EvalCommand {
    Knn(KnnArgs),
}

/// Classify images by their nearest neighbours, without training
///
/// Each image is resized bicubically by its shorter side, its centre cut out, and becomes one
/// vector: the mean of the encoder's class tokens after the last block. Each held-out image gets the
/// class that most of its nearest reference images vote for, weighted by exp(cosine / temperature);
/// what is printed is how often that is its own (top-1). Images without a label and those that do
/// not decode are counted and left out. Mean and deviation of pixels are those of
/// preprocessor_config.json beside the weights, else ImageNet's.
#[derive(Debug, Args)]
#[command(after_help = PATTERN_HELP)]
struct KnnArgs {
    /// The encoder: a Hugging Face folder, a .safetensors file, or a .pth state dict
    #[arg(long, value_name = "PATH")]
    weights: PathBuf,
    /// Attention heads of the weights, where nothing beside them tells
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Labelled shards of the images that vote
    #[arg(long, required = true, num_args = 1.., value_name = "PATTERN")]
    reference: Vec<String>,
    /// Labelled shards of the images that are classified
    #[arg(long, required = true, num_args = 1.., value_name = "PATTERN")]
    held_out: Vec<String>,
    /// Side of the images, in pixels [default: that of the weights]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u16).range(1..=4096))]
    input_size: Option<u16>,
    /// Numbers of neighbours that vote
    #[arg(long, value_name = "K,...", value_delimiter = ',', default_values_t = KnnConfig::NEIGHBOURS)]
    neighbours: Vec<usize>,
    /// The lower, the more the nearest count
    #[arg(long, value_name = "T", default_value_t = KnnConfig::TEMPERATURE)]
    temperature: f64,
    /// Take so many reference images at most, spread evenly over all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    most_reference: Option<u64>,
    /// Take so many held-out images at most, spread evenly over all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    most_held_out: Option<u64>,
    /// Images in one forward pass
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(1..=8192))]
    batch_size: u16,
    /// Worker processes that decode; 0 takes one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    workers: usize,
    /// Where to compute
    #[arg(long, value_parser = ["auto", "cpu", "cuda"], default_value = "auto")]
    device: String,
    /// Number format of matrix products
    #[arg(long, value_parser = ["fp32", "bf16"], default_value = "fp32")]
    precision: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct KnnReport {
    weights: PathBuf,
    encoder: String,
    input_size: usize,
    precision: Precision,
    temperature: f64,
    reference: ImagesReport,
    held_out: ImagesReport,
    accuracies: Vec<AccuracyReport>,
}

/// The reference or the held-out images.
#[derive(Debug, Serialize)]
struct ImagesReport {
    /// That have a vector and a class.
    #[serde(rename = "pictures")]
    images: usize,
    classes: usize,
    without_label: u64,
    undecodable: u64,
}

#[derive(Debug, Serialize)]
struct AccuracyReport {
    neighbours: usize,
    /// Share of the held-out images whose class was found.
    top1: f64,
}

/// Runs the command.
///
/// # Errors
/// What the user has to know, in a line.
pub fn run(args: &EvalArgs) -> Result<()> {
    match &args.command {
        EvalCommand::Knn(args) => {
            let report = measure_knn(args)?;
            print(&if args.json { serde_json::to_string(&report)? + "\n" } else { report.table() })
        }
    }
}

fn measure_knn(args: &KnnArgs) -> Result<KnnReport> {
    let check = |references| knn::check(&args.neighbours, args.temperature, references);
    check(u64::MAX)?;
    let device = device::find("--device", device_choice(&args.device), 0)?;
    let precision = if args.precision == "bf16" { Precision::Bf16 } else { Precision::Fp32 };
    let Loaded { model, name, image_size, preprocessing } = load(args, device, precision.kind())?;
    let encoder = Encoder { model: &*model, compute: precision.kind() };
    let image_sets = ImageSets { args, encoder, image_size, preprocessing, device };
    let reference = image_sets.features("--reference", &args.reference, args.most_reference)?;
    check(reference.count() as u64).context("--neighbours")?;
    let held_out = image_sets.features("--held-out", &args.held_out, args.most_held_out)?;
    let accuracies = knn::accuracies(&reference, &held_out, &args.neighbours, args.temperature)?;
    Ok(KnnReport {
        weights: args.weights.clone(),
        encoder: name,
        input_size: image_size,
        precision,
        temperature: args.temperature,
        reference: ImagesReport::of(&reference),
        held_out: ImagesReport::of(&held_out),
        accuracies: args
            .neighbours
            .iter()
            .zip(accuracies)
            .map(|(&neighbours, top1)| AccuracyReport { neighbours, top1 })
            .collect(),
    })
}

fn device_choice(name: &str) -> DeviceChoice {
    match name {
        "cpu" => DeviceChoice::Cpu,
        "cuda" => DeviceChoice::Cuda,
        _ => DeviceChoice::Auto,
    }
}

/// An encoder from its weights.
struct Loaded {
    model: Box<dyn encoders::Encoder>,
    /// Its published name or its numbers.
    name: String,
    /// Side of its images, in pixels.
    image_size: usize,
    preprocessing: Preprocessing,
}

/// The encoder, its weights kept as they are used.
fn load(args: &KnnArgs, device: Device, compute: Kind) -> Result<Loaded> {
    let weights = EncoderWeights::open(&args.weights).context("--weights")?;
    let stored = weights.measure(args.heads)?;
    let spec = stored.spec;
    let image_size = args.input_size.map_or(stored.image_size, usize::from);
    if !image_size.is_multiple_of(spec.patch_size) {
        let patch = spec.patch_size;
        let message =
            format!("found {image_size}, expected a multiple of the encoder's patch, {patch}");
        let key = "--input-size".to_string();
        return Err(ConfigError { file: PathBuf::new(), key, message }.into());
    }
    let model = guard(|| {
        let mut parameters = Parameters::new(Storage::Empty { device, matrices: compute });
        let mut model = spec.build(&mut parameters, spec.grid_size(stored.image_size));
        weights.load_into(parameters.named())?;
        drop(parameters);
        let format = FrozenFormat { compute, residual: Kind::Float, fp8: false };
        model.freeze(format, spec.grid_size(image_size) as i64);
        Ok(model)
    })?;
    let preprocessing = Preprocessing::beside(&args.weights)?;
    Ok(Loaded { model, name: spec.to_string(), image_size, preprocessing })
}

/// What both sets of images have in common.
struct ImageSets<'a> {
    args: &'a KnnArgs,
    encoder: Encoder<'a>,
    image_size: usize,
    preprocessing: Preprocessing,
    device: Device,
}

impl ImageSets<'_> {
    /// Features of the images that `option` names.
    fn features(
        &self,
        option: &'static str,
        patterns: &[String],
        most: Option<u64>,
    ) -> Result<Features> {
        let config = DataConfig {
            input_size: self.image_size,
            batch_size: self.args.batch_size.into(),
            workers: self.args.workers,
            mean: self.preprocessing.mean,
            std: self.preprocessing.std,
            // Bad images are counted here, not a reason to stop.
            max_failed_share: 1.0,
            ..DataConfig::minimal(patterns.to_vec())
        };
        let most_samples = most.unwrap_or(u64::MAX);
        let pass = EvaluationPass { most_samples, ..EvaluationPass::WHOLE };
        let dataset = with_bar("opening shards", |progress| {
            Dataset::for_evaluation(&config, option, pass, progress)
        });
        let source = ImageSource {
            dataset: Arc::new(dataset?),
            config: &config,
            worker_program: &worker_program()?,
        };
        let features = with_bar(&option[2..], |progress| {
            eval::features(&[self.encoder], &source, self.device, &|done, all| {
                progress(done as usize, all as usize);
                Ok(())
            })
        });
        let features = features.context(option)?.pop().context("an encoder has features")?;
        guard(|| Ok(features.to_device(self.device)))
    }
}

impl ImagesReport {
    fn of(features: &Features) -> Self {
        let mut classes = features.labels.clone();
        classes.sort_unstable();
        classes.dedup();
        Self {
            images: features.count(),
            classes: classes.len(),
            without_label: features.left_out.without_label,
            undecodable: features.left_out.undecodable,
        }
    }

    fn line(&self, name: &str) -> String {
        let Self { images, classes, without_label, undecodable } = self;
        let mut line = format!("{name:<12} {images:>9} images of {classes} classes");
        for (count, what) in [(without_label, "without a label"), (undecodable, "not decodable")] {
            if *count > 0 {
                line += &format!(", {count} {what}");
            }
        }
        line + "\n"
    }
}

impl KnnReport {
    fn table(&self) -> String {
        let mut table = format!("{} ({})\n", self.weights.display(), self.encoder);
        table += &self.reference.line("reference");
        table += &self.held_out.line("held-out");
        table += &format!("{:>12} {:>9}\n", "neighbours", "top-1");
        for AccuracyReport { neighbours, top1 } in &self.accuracies {
            table += &format!("{neighbours:>12} {:>7.2} %\n", 100.0 * top1);
        }
        table
    }
}
