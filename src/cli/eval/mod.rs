//! `distill eval`: how good an encoder's features are.

mod all;
mod dense;
mod heads;
mod source;

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use self::source::SourceArgs;
use super::exit::DONE;
use super::output::print;
use super::patterns::PATTERN_HELP;
use crate::config::{DeviceChoice, Precision};
use crate::data::image::Exif;
use crate::data::{Dataset, ShardProgress};
use crate::eval::kinds::centroid::Centroid;
use crate::eval::kinds::knn::Knn;
use crate::eval::kinds::linear::Linear;
use crate::eval::{
    Features, Given, ImageSet, LeftOut, Measured, NamedEvaluation, Observer, Progress, SetFacts,
    Settings,
};
use crate::run::features::{Maker, measure_features};
use crate::run::frozen_encoder::FrozenEncoder;
use crate::run::{Found, Measuring};
use crate::train::signals;
use crate::ui::with_bar;

/// Measure how good an encoder's features are
#[derive(Debug, Args)]
#[command(after_help = PATTERN_HELP)]
pub struct EvalArgs {
    #[command(subcommand)]
    command: EvalCommand,
}

#[derive(Debug, Subcommand)]
enum EvalCommand {
    /// Classify images by their nearest neighbours, without training
    ///
    /// Each image is resized bicubically by its shorter side, its centre cut out, and becomes one
    /// vector: the mean of the encoder's class tokens after the last block. Each held-out image gets
    /// the class that most of its k nearest reference images vote for, weighted by
    /// exp(cosine / temperature); what is printed is how often that is its own: top-1 accuracy, k = 10,
    /// 20, ... Images without a label and those that do not decode are counted and left out. Mean and
    /// deviation of pixels are those of preprocessor_config.json beside the weights, else ImageNet's.
    #[command(after_help = PATTERN_HELP)]
    Knn(MeasureArgs<Knn>),
    /// Classify images by the nearest class centroid, without training
    ///
    /// Features are those of `distill eval knn`. The centroid of a class is the mean feature of its
    /// reference images; each held-out image gets the class whose centroid has the highest cosine with
    /// its feature (a linear kernel); what is printed is how often that is its own: top-1 accuracy.
    #[command(after_help = PATTERN_HELP)]
    Centroid(MeasureArgs<Centroid>),
    /// Train linear classifiers on frozen features, and test the best
    ///
    /// Features are taken once, without augmentation: the mean of the class tokens after the final norm,
    /// with and without the mean patch token. A classifier is trained for each learning rate and each of
    /// the two, as in DINOv2's protocol; the one that is best on validation images is tested: top-1
    /// accuracy. `--solver lbfgs` fits logistic regressions instead. `--shots 1,5,10` adds regressions of so
    /// few images of each class.
    #[command(after_help = PATTERN_HELP)]
    Linear(Box<MeasureArgs<Linear>>),
    /// Segment images by the nearest labelled patches, without training
    ///
    /// Patches of training images, tokens after the final norm, make a bank: equally many of each class where
    /// there are, each with the shares of the classes among its pixels. For each patch of a test image the
    /// nearest of the bank vote with theirs, weighted by exp(cosine / temperature); the votes are enlarged
    /// bilinearly to the image's pixels. Images are central squares at the input size. What is printed is
    /// mIoU over all classes, pixel accuracy, and mIoU over the classes that occur.
    #[command(
        after_help = "Examples: distill eval dense --dataset pascal --root data/voc --weights exports/small\n          \
                      distill eval dense --data mine.toml --weights exports/small --input-size 512"
    )]
    Dense(Box<MeasureArgs<dense::DenseSettings>>),
    /// Train depth heads on a frozen encoder, and test them
    ///
    /// The protocol of the Pixio release: squares of 256 pixels for training, sliding windows for test,
    /// 60 epochs, a test after each. What is printed is the figures of the last epoch, and beside them the
    /// best of all epochs on the test split, which is what is published. Goes on where it was stopped.
    #[command(
        after_help = "Example: distill eval depth --dataset nyuv2 --root data/nyuv2 --head linear,dpt --weights \
                      exports/small"
    )]
    Depth(Box<heads::HeadsArgs<heads::DepthSet>>),
    /// Train segmentation heads on a frozen encoder, and test them
    ///
    /// The protocol of the Pixio release, as of `distill eval depth`; figures are mIoU over all classes and
    /// pixel accuracy, in %.
    #[command(
        after_help = "Example: distill eval segmentation --dataset ade20k --root data/ade20k --head linear \
                      --run runs/mine --student small"
    )]
    Segmentation(Box<heads::HeadsArgs<heads::SegmentationSet>>),
    /// Measure several encoders by several evaluations and heads, and compare them in one table
    ///
    /// A file names encoders (weights, or runs, which give each student before and after training and the
    /// teacher), evaluations and heads. What is measured is kept in run.dir, and is measured again only
    /// where weights or settings changed: the same command goes on where it was stopped. The table goes to
    /// the terminal, evaluation.json, evaluation.md and a page, report.html; what is published of the Pixio
    /// release's encoder stands under it.
    #[command(after_help = "Example: distill eval all --config configs/eval/quickstart.toml")]
    All(all::AllArgs),
}

/// An encoder, and what to measure of it.
#[derive(Debug, Args)]
struct MeasureArgs<S: Args> {
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    settings: S,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Take folders of `distill features` in the place of images, and no encoder
    #[arg(long, conflicts_with_all = ["weights", "run", "input_size", "label", "classes"])]
    from_features: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct EncoderArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Side of the images, in pixels [default: that of the weights]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u16).range(1..=4096))]
    input_size: Option<u16>,
}

#[derive(Debug, Args)]
pub(super) struct ComputeArgs {
    /// Images in one forward pass
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(1..=8192))]
    batch_size: u16,
    /// Worker processes that decode; 0 takes one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    workers: usize,
    /// Where classes stand in shards: the extension of a member, or json:FIELD [default: as the run given with
    /// --run has it, else cls]
    #[arg(long, value_name = "PLACE")]
    label: Option<String>,
    /// File with the names of classes in the order of their numbers, where members say names [default: that of
    /// the run given with --run]
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Turn images as their EXIF tag says, which is the default where the run given with --run did
    #[arg(long)]
    apply_exif: bool,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Number format of matrix products
    #[arg(long, value_enum, default_value_t = Precision::Fp32)]
    precision: Precision,
}

/// Runs the command.
pub fn run(args: EvalArgs) -> Result<u8> {
    match args.command {
        EvalCommand::Knn(args) => measure(args, Ok).map(|()| DONE),
        EvalCommand::Centroid(args) => measure(args, Ok).map(|()| DONE),
        EvalCommand::Linear(args) => measure(*args, Ok).map(|()| DONE),
        EvalCommand::Dense(args) => {
            measure(*args, |settings| Ok(settings.settings()?)).map(|()| DONE)
        }
        EvalCommand::Depth(args) => heads::run(*args),
        EvalCommand::Segmentation(args) => heads::run(*args),
        EvalCommand::All(args) => all::run(&args),
    }
}

/// How the encoder that the options name looks at images.
pub(super) fn measuring(encoder: &EncoderArgs, compute: ComputeArgs) -> Measuring {
    Measuring {
        encoder: encoder.source.source(),
        input_size: encoder.input_size.map(usize::from),
        batch_size: compute.batch_size.into(),
        workers: compute.workers,
        label: compute.label,
        classes: compute.classes,
        exif: compute.apply_exif.then_some(Exif::Apply),
        device: compute.device,
        precision: compute.precision,
    }
}

/// Measures what `as_settings` makes of the command line's own.
fn measure<A: Args, S: Settings>(
    args: MeasureArgs<A>,
    as_settings: impl FnOnce(A) -> Result<S>,
) -> Result<()> {
    let MeasureArgs { encoder, settings, compute, from_features, json } = args;
    let one = NamedEvaluation::new(as_settings(settings)?);
    // What no number of images makes good is said before weights are read.
    let enough = vec![u64::MAX; one.evaluation.image_sets().len()];
    one.evaluation.check(&enough).map_err(|(field, message)| {
        anyhow!("{}: {message}", Given::OnCommandLine.key("", &field))
    })?;
    if from_features {
        let Some((maker, measured)) = measure_features(&one, compute.device)? else {
            return Ok(());
        };
        let report = Report { maker, one, measured };
        return print(&if json { report.json() } else { report.table() });
    }
    let precision = compute.precision.name().to_string();
    let measuring = measuring(&encoder, compute);
    let Found { encoder: loaded, measured, is_first } =
        measuring.measure(std::slice::from_ref(&one), &Bars)?;
    if !is_first {
        return Ok(());
    }
    let measured = measured.into_iter().next().context("the evaluation has a result")?;
    let FrozenEncoder { name, image_size: input_size, .. } = loaded;
    let weights = measuring.encoder.describe();
    let maker = Maker { weights, encoder: name, input_size, precision };
    let report = Report { maker, one, measured };
    print(&if json { report.json() } else { report.table() })
}

/// Bars on the screen.
struct Bars;

impl Observer for Bars {
    fn open(
        &self,
        _: &ImageSet,
        open: &dyn Fn(ShardProgress<'_>) -> Result<Dataset>,
    ) -> Result<Dataset> {
        with_bar("opening shards", open)
    }

    fn extract(
        &self,
        set: &ImageSet,
        extract: &mut dyn FnMut(Progress<'_>) -> Result<Vec<Features>>,
    ) -> Result<Vec<Features>> {
        with_bar(set.title, |progress| {
            extract(&|done, all| {
                progress(done as usize, all as usize);
                signals::stop_requested().is_some()
            })
        })
    }
}

/// What was measured of an encoder.
struct Report {
    maker: Maker,
    one: NamedEvaluation,
    measured: Measured,
}

impl Report {
    /// One JSON object in a line.
    fn json(&self) -> String {
        let Maker { weights, encoder, input_size, precision } = &self.maker;
        let mut object = Map::new();
        object.insert("weights".into(), weights.clone().into());
        object.insert("encoder".into(), encoder.clone().into());
        object.insert("input_size".into(), (*input_size).into());
        object.insert("precision".into(), precision.clone().into());
        let first = self.measured.sets.first().map_or("", |set| set.title);
        for set in &self.measured.sets {
            let SetFacts { title, images, classes, left_out, also_in_first, unknown } = set;
            let LeftOut { undecodable, without_label } = left_out;
            let mut facts = json!({ "pictures": images, "classes": classes,
                                    "without_label": without_label, "undecodable": undecodable });
            if *title != first {
                facts[format!("also_in_{first}")] = (*also_in_first).into();
                facts["of_unknown_classes"] = unknown[0].into();
            }
            object.insert(title.replace('-', "_"), facts);
        }
        object.extend(self.one.evaluation.to_json(&self.measured.measurements));
        format!("{}\n", Value::Object(object))
    }

    fn table(&self) -> String {
        let Maker { weights, encoder, input_size: size, .. } = &self.maker;
        let mut table = format!("{weights} ({encoder}), images of {size} × {size} pixels\n");
        table.extend(self.measured.sets.iter().map(line));
        table += &format!("{}\n", self.one.evaluation.title());
        let values = self.measured.measurements.iter().map(|measurement| measurement.value);
        for (metric, value) in self.one.evaluation.metrics().iter().zip(values) {
            table += &format!("  {:<10} {:>9.2} %\n", metric.label, 100.0 * value);
        }
        table
    }
}

/// A set of images, for people.
fn line(facts: &SetFacts) -> String {
    let SetFacts { title, images, classes, left_out, .. } = facts;
    let mut line = format!("{title:<12} {images:>9} images of {classes} classes");
    let LeftOut { undecodable, without_label } = *left_out;
    for (count, what) in [(without_label, "without a label"), (undecodable, "not decodable")] {
        if count > 0 {
            line += &format!(", {count} {what}");
        }
    }
    line + "\n"
}
