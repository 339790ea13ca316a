//! `distill data`: shards made, indexed, checked and looked at; small dense data sets made.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use indicatif::HumanBytes;

use super::made::{self, MasksArgs, ScenesArgs};
use super::output::print;
use super::patterns::PATTERN_HELP;
use super::preview::{self, PreviewArgs};
use crate::config::DataConfig;
use crate::data::config::TargetConfig;
use crate::data::pack::{self, Encoding, PackOptions};
use crate::data::source::Sources;
use crate::data::{Checked, Dataset, DensePixels, IndexCache};
use crate::tasks;
use crate::ui::with_bar;

/// Make, index, check and look at WebDataset shards (tar files of images), and make small dense data sets
#[derive(Debug, Args)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    Pack(PackArgs),
    Index(IndexArgs),
    Check(CheckArgs),
    Preview(PreviewArgs),
    Masks(MasksArgs),
    Scenes(ScenesArgs),
}

/// Pack a folder of images into shards
///
/// SOURCE is a folder of images (.jpg, .jpeg, .png, .webp); or a folder of class folders, which
/// become labels 0, 1, ... in sorted order (whole numbers as numbers), listed in OUT/classes.json; or a folder of MNIST-style
/// files (NAME-images-idx3-ubyte and NAME-labels-idx1-ubyte, plain or .gz), one set of shards for
/// each NAME. Samples are shuffled, always in the same way. Images that cannot be read are
/// named, counted and left out.
#[derive(Debug, Args)]
#[command(after_help = "Example: distill data pack ~/Images --out shards --shorter-side 512\n\
                        then in the config: shards = [\"shards/*.tar\"]")]
struct PackArgs {
    /// Folder of images, of class folders, or of MNIST-style files
    source: PathBuf,
    /// Folder for the shards; made if it does not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Samples in a shard
    #[arg(long, value_name = "N", default_value_t = 5000,
          value_parser = clap::value_parser!(u64).range(1..))]
    shard_samples: u64,
    /// Shards are called NAME-000000.tar, ... [default: shard; for MNIST-style files their names]
    #[arg(long, value_name = "NAME")]
    prefix: Option<String>,
    /// Shrink images whose shorter side is larger, and store them as JPEG of quality 92
    /// [default: keep every file as it is]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..))]
    shorter_side: Option<u32>,
    /// Cut each image into tiles of about this side (after shrinking): many samples from few
    /// large photographs
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..))]
    tile: Option<u32>,
    /// Largest image that is read, in pixels (width × height) [default: as data.max_pixels]
    #[arg(long, value_name = "N")]
    max_pixels: Option<u64>,
    /// Number class folders as this classes.json of an earlier packing does
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
}

/// Index shards ahead of a run, and show what is in them
///
/// An index lists where each image lies. A run makes those that are missing, so this is only
/// to save time at its start, or to look. An index is made again when its shard changes.
#[derive(Debug, Args)]
#[command(after_help = PATTERN_HELP)]
struct IndexArgs {
    /// Shards
    #[arg(required = true, value_name = "PATTERN")]
    patterns: Vec<String>,
    /// Where indexes are kept [default: beside the shards, or in the user's cache folder where
    /// that place is read-only]
    #[arg(long, value_name = "DIR")]
    index_dir: Option<PathBuf>,
    /// Where classes stand: the extension of a member, or json:FIELD, as data.label
    #[arg(long, value_name = "PLACE", default_value = "cls")]
    label: String,
    /// File with the names of classes in the order of their numbers, as data.classes
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
}

/// Decode every image of a data set, and list what is bad
///
/// Give shards, or a run's config, whose data section (curation included) is then checked. Lists
/// bad images by shard and member. Exits with 1 if anything is bad.
#[derive(Debug, Args)]
#[command(after_help = PATTERN_HELP)]
struct CheckArgs {
    /// Shards
    #[arg(required_unless_present = "config", conflicts_with = "config", value_name = "PATTERN")]
    patterns: Vec<String>,
    /// Config of a run
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change a key of the config, such as data.max_pixels=1000000
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// Also decode the segmentation mask beside each image: a PNG member with this extension, such as
    /// `png` for KEY.png
    #[arg(long, value_name = "EXTENSION")]
    mask: Option<String>,
    /// Also decode the depth map beside each image: a PNG member with this extension
    #[arg(long, value_name = "EXTENSION")]
    depth: Option<String>,
}

/// Runs the command.
pub fn run(args: DataArgs) -> Result<()> {
    match args.command {
        DataCommand::Pack(args) => run_pack(args),
        DataCommand::Index(args) => run_index(&args),
        DataCommand::Check(args) => run_check(args),
        DataCommand::Preview(args) => preview::run(&args),
        DataCommand::Masks(args) => made::run_masks(args),
        DataCommand::Scenes(args) => made::run_scenes(args),
    }
}

fn run_pack(args: PackArgs) -> Result<()> {
    let options = PackOptions {
        source: args.source,
        out: args.out,
        prefix: args.prefix,
        classes: args.classes,
        shard_samples: args.shard_samples as usize,
        encoding: Encoding {
            shorter_side: args.shorter_side.map(|side| side as usize),
            tile: args.tile.map(|side| side as usize),
            max_pixels: args.max_pixels.unwrap_or_else(|| DataConfig::minimal(vec![]).max_pixels),
        },
    };
    let packed = with_bar("packing", |progress| pack::pack(&options, progress))?;
    let mut text = format!(
        "packed {} samples into {} shards, {}, in {}",
        packed.samples,
        packed.shards.len(),
        HumanBytes(packed.bytes),
        options.out.display()
    );
    if !packed.classes.is_empty() {
        text += &format!("; {} classes, listed in classes.json", packed.classes.len());
    }
    if packed.skipped > 0 {
        text += &format!("; {} images could not be read and were left out", packed.skipped);
    }
    print(&(text + "\n"))
}

fn run_index(args: &IndexArgs) -> Result<()> {
    let config = DataConfig {
        index_dir: args.index_dir.clone(),
        label: args.label.clone(),
        classes: args.classes.clone(),
        ..DataConfig::minimal(vec![])
    };
    let sources = Arc::new(Sources::new(&config)?);
    let shards = sources.expand(&args.patterns, "PATTERN")?;
    let cache = IndexCache::new(sources, config.index_dir.as_deref()).with(config.wanted()?);
    let indexes = with_bar("indexing", |progress| {
        IndexCache::visit(&shards, progress, |shard| cache.open(shard))
    });
    let mut table =
        format!("{:>9} {:>9} {:>12}  {:<6} shard\n", "samples", "labels", "bytes", "index");
    let mut errors = Vec::new();
    let (mut samples, mut labels, mut bytes) = (0, 0, 0);
    for (shard, index) in shards.iter().zip(indexes) {
        match index {
            Ok(cached) => {
                let index = cached.index;
                let state = if cached.reused { "found" } else { "made" };
                table += &row(index.rows(), index.labelled(), index.bytes(), state, shard);
                samples += index.rows();
                labels += index.labelled();
                bytes += index.bytes();
            }
            Err(error) => errors.push(error),
        }
    }
    table += &row(samples, labels, bytes, "", &format!("total of {} shards", shards.len()));
    print(&table)?;
    fail_with(&errors, shards.len(), "shards cannot be indexed")
}

fn row(
    samples: usize,
    labels: usize,
    bytes: u64,
    state: &str,
    name: &dyn std::fmt::Display,
) -> String {
    format!("{samples:>9} {labels:>9} {bytes:>12}  {state:<6} {name}\n")
}

fn run_check(args: CheckArgs) -> Result<()> {
    let mut config = match &args.config {
        Some(file) => tasks::load(file, &args.set)?.train().data.clone(),
        None => DataConfig::minimal(args.patterns),
    };
    for (name, member, pixels) in
        [("mask", args.mask, DensePixels::Classes), ("depth", args.depth, DensePixels::Depth)]
    {
        let target = member.map(|member| (name.to_string(), TargetConfig { member, pixels }));
        config.targets.extend(target);
    }
    let key = if args.config.is_some() { "data.shards" } else { "PATTERN" };
    let sources = Arc::new(Sources::new(&config)?);
    let shards = sources.expand(&config.shards, key)?;
    // What is odd about shards is told when they are opened to be checked.
    let cache = IndexCache::new(sources.clone(), config.index_dir.as_deref()).quiet();
    let cache = cache.with(config.wanted()?);
    let indexes = with_bar("indexing", |progress| {
        IndexCache::visit(&shards, progress, |shard| cache.head(shard).map(|_| shard.clone()))
    });
    let shard_count = shards.len();
    let (mut whole, mut errors) = (Vec::new(), Vec::new());
    for index in indexes {
        index.map_or_else(|error| errors.push(error), |shard| whole.push(shard));
    }
    let mut bad = 0;
    if !whole.is_empty() {
        let dataset = Dataset::from_shards(&config, 0, sources, &whole, &|_, _| {})?;
        bad = check_images(&dataset, config.curation.is_some())?;
    }
    fail_with(&errors, shard_count, "shards are bad")?;
    if bad > 0 {
        bail!("{bad} images are bad");
    }
    Ok(())
}

fn check_images(dataset: &Dataset, curated: bool) -> Result<usize> {
    let selection = *dataset.selection();
    if curated {
        print(&format!(
            "curation keeps {} of {} images\n  without scores: {}\n  histogram_score too low: {}\n  \
             too small: {}\n  mae_loss of 0: {}\n",
            selection.kept,
            selection.images(),
            selection.without_scores,
            selection.low_histogram_score,
            selection.small,
            selection.never_drawn
        ))?;
    }
    let done = AtomicUsize::new(0);
    let Checked { bad, arithmetic } = with_bar("decoding", |progress| {
        dataset.check(&|| {
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, selection.kept as usize);
        })
    });
    let mut text = String::new();
    for (place, error) in &bad {
        text += &format!("{place}: {error:#}\n");
    }
    text += &format!(
        "decoded {} images of {} shards: {} good, {} bad\n",
        selection.kept,
        dataset.shard_count(),
        selection.kept - bad.len() as u64,
        bad.len()
    );
    if arithmetic > 0 {
        text += &format!(
            "{arithmetic} JPEGs have arithmetic coding, which does not show whether their data end early\n"
        );
    }
    print(&text)?;
    Ok(bad.len())
}

/// Prints all of `errors`, and fails if there are any.
fn fail_with(errors: &[anyhow::Error], total: usize, what: &str) -> Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    let lines: String = errors.iter().map(|error| format!("{error:#}\n")).collect();
    print(&lines)?;
    bail!("{} of {total} {what}", errors.len())
}
